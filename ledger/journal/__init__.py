"""What a serving process writes and reads: holds, settlements, keys and prices, over asyncpg alone.

`store.Store` is its only door; `group_commit` gathers writes into batches, `writes` makes their rows, `sweep` settles
what dead processes left held. `schema`, `migrate` and `connections` say which database this is, and reach it. Imports
only the pure core of `ledger`.
"""
