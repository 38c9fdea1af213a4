"""Periods and invoices: what was posted in a month of a time zone, added up into numbered documents.

`periods` and `invoices` are pure; `invoicing` reads what was charged, numbers the documents and keeps them. Imports the
core, `journal` and `accounts`.
"""
