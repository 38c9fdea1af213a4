"""What is read back: usage, generations, a tenant's standing, and the audit that proves the books from the journal.

`usage`, `generations` and `standing` are written for asyncpg, because a serving process answers with them; `audit` is
for the command line. Nothing here writes. Imports every other room of `ledger`; none of them imports it.
"""
