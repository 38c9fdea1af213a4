"""Periods and invoices: what was posted in a month of a time zone, folded into numbered documents.

`invoices` is the pure fold, `invoicing` numbers and keeps what it makes. Imports the core, `journal` and `accounts`.
"""
