"""One cluster of Postgres: create it whole or not at all, launch its server, stop it.

Every process of Postgres inherits `alive.lock`, so the lock is free only when none is left, whatever process ids say.
Whoever holds it may create and launch; a `postmaster.pid` found then is stale, even if another process has its number.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from proxy.postgres.errors import ClusterOfAnotherVersion, PostgresFailed
from proxy.postgres.locks import EXCLUSIVE, is_free, open_private, try_lock
from proxy.postgres.programs import MAJOR, Programs, find_programs, name_of, run_as

OWNER, DATABASE, SUPERUSER, PORT = "caduceus", "caduceus", "postgres", 5432
LOG_BYTES = 4_194_304
STOP_FAST_S, STOP_IMMEDIATE_S, POLL_S = 60.0, 10.0, 0.02

# Written into postgresql.conf when the cluster is created; the operator may change them there.
TUNING = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Given at every launch, above any file. The socket lies in PGDATA itself, which is private; the path is relative so
# that neither its length nor the directories above it matter.
FIXED = {"listen_addresses": "", "unix_socket_directories": ".", "port": str(PORT), "logging_collector": "off"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
VOLATILE = DURABLE | {"fsync": "off", "full_page_writes": "off"}  # survives a crash of Postgres, not of the machine

HBA = f"local all {OWNER} peer map=operator\n"
FIRST_SQL = (
    f"CREATE ROLE {OWNER} LOGIN CREATEDB CREATEROLE;\n\n"
    # The owner may SET ROLE to the roles that it creates.
    f"ALTER ROLE {OWNER} SET createrole_self_grant = 'set, inherit';\n\n"
    f"CREATE DATABASE {DATABASE} OWNER {OWNER};\n\n"
)
# Postgres takes a pid file for a living server when its number is in use, be it by a zombie or by a stranger.
LAUNCH = f"""
printf %s "$1" >pg_hba.conf && printf %s "$2" >pg_ident.conf || exit 1
rm -f postmaster.pid .s.PGSQL.{PORT} .s.PGSQL.{PORT}.lock
shift 2
"$@" &
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    directory: Path  # data_dir/postgres
    programs: Programs
    durable: bool

    @property
    def pgdata(self) -> Path:
        return self.directory / MAJOR

    @property
    def alive(self) -> Path:
        return self.directory / "alive.lock"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    def create(self, alive: int, timeout_s: float) -> None:
        """initdb, the owner and its database, in a draft that is renamed when all of it is on disk."""
        self.refuse_another_version()
        for leftover in self.directory.glob("creating-*"):
            shutil.rmtree(leftover)
        draft = Path(tempfile.mkdtemp(prefix="creating-", dir=self.directory))
        self.programs.give(draft)
        where = ("-D", self.programs.pgdata_argument(draft))
        options = ("--no-locale", "--encoding=UTF8", f"--username={SUPERUSER}", "--auth=peer", "--no-instructions")
        settings = [part for key, value in TUNING.items() for part in ("--set", f"{key}={value}")]
        sync = [] if self.durable else ["--no-sync"]
        self._must(draft, alive, timeout_s, "initdb", *where, *options, *settings, *sync)
        single = ("--single", *where, "-c", "exit_on_error=on", "-j", "postgres")
        self._must(draft, alive, timeout_s, "postgres", *single, stdin=FIRST_SQL)
        draft.rename(self.pgdata)
        sync_directory(self.directory)

    def refuse_another_version(self) -> None:
        for other in self.directory.iterdir():
            if other.name.isdigit() and other.name != MAJOR:
                raise ClusterOfAnotherVersion(self.directory, other.name, MAJOR)

    def launch(self, alive: int, timeout_s: float) -> None:
        """Start the server in the background; it belongs to no process of ours, and inherits `alive`."""
        settings = FIXED | (DURABLE if self.durable else VOLATILE)
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        server = [
            str(self.programs.binaries / "postgres"),
            "-D",
            self.programs.pgdata_argument(self.pgdata),
            *arguments,
        ]
        log = open_private(self.log, os.O_WRONLY | os.O_APPEND)
        try:
            done = run_as(
                self.programs.account,
                ["/bin/sh", "-c", LAUNCH, "sh", HBA, self._ident(), *server],
                cwd=self.pgdata,
                keep=(alive,),
                output=log,
                timeout_s=timeout_s,
            )
        finally:
            os.close(log)
        if done.returncode:
            raise PostgresFailed("the launch of Postgres", last_words(self.log, 0), self.log)

    def _ident(self) -> str:
        """Who may log in as the database's owner: this user, the user that owns the directory, and root."""
        names = {name_of(uid) for uid in (os.geteuid(), self.directory.stat().st_uid, 0)}
        return "".join(f'operator "{name}" {OWNER}\n' for name in sorted(names))

    def was_cut(self) -> bool:
        """Whether the server was not shut down the last time: no process of it is left, but its pid file is."""
        return (self.pgdata / "postmaster.pid").exists()

    def stop(self) -> bool:
        """Shut the server down, at once if it takes too long (Postgres then recovers at its next start).

        True when no process of it is left.
        """
        if not self.pgdata.exists():
            return True
        return self._ask_to_stop("fast", STOP_FAST_S) or self._ask_to_stop("immediate", STOP_IMMEDIATE_S)

    def _ask_to_stop(self, mode: str, patience_s: float) -> bool:
        # A server that was launched a moment ago has no pid file yet: ask until one question arrives. While somebody
        # holds `alive.lock` the pid file is the server's own, so no foreign process is hit.
        arguments = ("stop", "-D", self.programs.pgdata_argument(self.pgdata), "-m", mode, "-W")
        asked, until = False, time.monotonic() + patience_s
        while not is_free(self.alive):
            if time.monotonic() > until:
                return False
            if not asked:
                done = self.programs.run("pg_ctl", *arguments, pgdata=self.pgdata, timeout_s=patience_s)
                asked = done.returncode == 0
            time.sleep(POLL_S)
        return True

    def trim_log(self) -> None:
        """Keep the log and the part before it, each of about `LOG_BYTES`; the server appends to the same file."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            before = self.log.with_name(f"{self.log.name}.1")
            with (
                os.fdopen(open_private(self.log, os.O_RDWR), "r+b") as log,
                os.fdopen(open_private(before, os.O_WRONLY | os.O_TRUNC), "wb") as copy,
            ):
                shutil.copyfileobj(log, copy)
                log.truncate(0)

    def _must(self, pgdata: Path, alive: int, timeout_s: float, program: str, *arguments: str, stdin: str = "") -> None:
        done = self.programs.run(program, *arguments, pgdata=pgdata, keep=(alive,), stdin=stdin, timeout_s=timeout_s)
        if done.returncode:
            with os.fdopen(open_private(self.log, os.O_WRONLY | os.O_APPEND), "w") as log:
                log.write(done.stdout)
            raise PostgresFailed(program, fatal_line(done.stdout), self.log)


def open_cluster(data_dir: Path, *, durable: bool) -> Cluster:
    """The cluster of `data_dir`, which need not be created yet; makes its directory."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = data_dir / "postgres"
    if not directory.exists():
        directory.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:  # the owner of the data directory owns what root makes in it
            os.chown(directory, data_dir.stat().st_uid, data_dir.stat().st_gid)
    return Cluster(directory, find_programs(data_dir, directory / MAJOR), durable)


def try_to_own(cluster: Cluster) -> int | None:
    """The right to create and launch: a descriptor of `alive.lock`; None while a process of Postgres lives."""
    return try_lock(cluster.alive, EXCLUSIVE)


def last_words(log: Path, since: int) -> str:
    """Why the server ended, from what it wrote after the byte `since`."""
    if not log.exists():
        return ""
    with log.open(errors="replace") as file:
        file.seek(since)
        return fatal_line(file.read(65_536))


def fatal_line(text: str) -> str:
    # "the database system is starting up" goes to clients that come too early; it is not why the server ended.
    lines = [line.strip() for line in text.splitlines() if line.strip() and "the database system is" not in line]
    fatal = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (fatal or lines or [""])[-1]


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
