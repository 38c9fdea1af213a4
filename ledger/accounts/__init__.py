"""What administration changes: tenants, API keys, credit, price lists; each change is written to the audit log.

In come names and exact amounts, out go rows as values. `administration` opens the connection and keeps the log,
`tables` are the tables as SQLAlchemy sees them; a serving process never imports either. `file_prices` alone is written
for asyncpg, because a serving process calls it. Imports the core and, of `journal`, its connections and schema.
"""
