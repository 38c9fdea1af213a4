"""The parts of the embedded Postgres: one cluster of one major version below the data directory.

`programs` finds the wheel's binaries and the account they run as, `cluster` creates, launches and stops, `answer` asks
the server whether it answers, `locks` says who is there. `proxy.postgres.embedded` is the flow that uses them.

    data_dir/
        server.lock             held by `serve`, exclusively
        postgres/               0700
            users.lock          held shared by every user; exclusively by the last one, while it stops the server
            alive.lock          held by every process of Postgres (inherited), so free means that none is left
            postgres.log        bounded; postgres.log.1 is the part before
            18/                 PGDATA, the socket in it; owned by the account that Postgres runs as
"""
