"""What a serving process writes and reads: holds, settlements, keys and prices, over asyncpg alone.

`store.Store` is the only door. Writes: `writes` makes the rows, `group_commit` gathers them into batches,
`functions.sql` posts a batch. Reads: `reading` has keys, claims and prices. Dead processes: `pins` is what a hold
keeps of its route, `sweep` settles what was left held. The database: `connections` reaches it, `schema` says which one
is expected, `migrate` makes it so. Imports only the pure core of `ledger`.
"""
