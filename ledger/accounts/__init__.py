"""What administration changes: tenants, API keys, credit, price lists; each change is written to the audit log.

In come names and exact amounts, out go rows as values. Goes through SQLAlchemy (`tables`, `administration`), which a
serving process never imports. Imports the core and `journal`'s connections.
"""
