"""What is read back: usage, generations, a tenant's standing, and the audit that proves the books from the journal.

Nothing here writes. Imports every other room of `ledger`; none of them imports it.
"""
