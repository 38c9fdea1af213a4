"""The composition: settings and a ledger in, a serving process out.

`app` builds what requests share and listens, `worker` is one process, `preparation` is what must be true of the ledger
before, `demo` what `serve --demo` shows, `database` where the ledger is. May import every room below `commands`.
"""
