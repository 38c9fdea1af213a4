"""Money: exact, double entry, append only.

A pure core (`money`, `prices`, `billing`) decides what is due, and one store (`journal.store`) keeps it in Postgres.
The unit is the pico-dollar (1e-12 USD); no amount is ever a float. A request is *held* before any provider is contacted
and *settled* before its answer completes; both are written in groups and may be repeated without harm. The tables are
in `migrations/`, the function that posts a group (`post_batch`) in `journal/functions.sql`.

What people do goes through `accounts.administration` and SQLAlchemy, which a serving process never imports, because it
would be a quarter of its memory: `accounts`, `papers.invoicing`, `reports.audit`. What both do is written for asyncpg.

Nothing here imports `providers`, `selfhost` or `proxy`.
"""
