"""The processes that check texts against schemas (`checker_process`): started, asked in turn, killed.

A tenant has one of them at a time, and tenants take turns: whose checks are slow waits for them alone.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never
from weakref import WeakValueDictionary

import orjson

from providers.formats.schema import BadSchema, Problem
from proxy.exchange.formats.checker_process import GAVE_UP, HEAD, SIZE, Verdict

MOST_REPLY_BYTES = 8 << 20  # its pointer may be as long as the text
ROOT = Path(__file__).parents[3]
BOOT = "import sys; sys.path[:] = sys.argv[1:]; from proxy.exchange.formats.checker_process import main; main()"
LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # where an interpreter may have its own parts

TOO_COSTLY = Problem("could not be checked: its schema asks for too much")
NOT_CHECKED = Problem("could not be checked: there was nobody free to do it")
UNCHECKED = frozenset({TOO_COSTLY, NOT_CHECKED})
"""These say nothing about the text."""

log = logging.getLogger("caduceus.checkers")


class Unchecked(Exception):
    """No verdict; `problem`, one of `UNCHECKED`, says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """What checking may take: processor time, and clocks for a machine that has no time for its processes."""

    processes: int = 2
    cpu_s: float = 0.5
    cpu_s_a_schema_byte: float = 16e-6
    cpu_s_a_text_byte: float = 4e-6
    most_cpu_s: float = 5.0
    wall_s: float = 15.0  # from the question to the answer, with the start of a process
    wait_s: float = 5.0  # for a turn

    def cpu_s_of(self, schema: bytes, text: bytes) -> float:
        wanted_s = self.cpu_s + self.cpu_s_a_schema_byte * len(schema) + self.cpu_s_a_text_byte * len(text)
        return min(wanted_s, self.most_cpu_s)


class Checkers:
    """A bounded number of processes, started when they are needed, replaced when they are killed or die."""

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(limits.processes)
        self._alive: set[CheckerProcess] = set()
        self._idle: list[CheckerProcess] = []  # the last one is the first to be asked
        self._reaping: set[asyncio.Future[int]] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        return [process.popen.pid for process in self._alive]

    async def check(self, schema: bytes, text: bytes, tenant_id: int) -> Problem | None:
        """Check a text, or, where it is empty, the schema alone. Raises BadSchema or Unchecked."""
        turn = self._turns.setdefault(tenant_id, asyncio.Lock())
        try:
            async with asyncio.timeout(self._limits.wait_s) as waiting, turn, self._places:
                waiting.reschedule(None)
                return await self._check(schema, text)
        except TimeoutError:
            raise Unchecked(NOT_CHECKED) from None

    async def _check(self, schema: bytes, text: bytes) -> Problem | None:
        """Ask a process; where it dies, ask a fresh one, for the reason may have been another than this check."""
        cpu_s = self._limits.cpu_s_of(schema, text)
        deadline_s = asyncio.get_running_loop().time() + self._limits.wall_s
        for place in (-1, 0):
            process = self._idle.pop(place) if self._idle else self._start()
            try:
                async with asyncio.timeout_at(deadline_s):
                    verdict, message, path = await process.ask(schema, text, cpu_s)
            except TimeoutError:
                self._replace(process)
                raise Unchecked(TOO_COSTLY) from None
            except (OSError, EOFError):
                status = await asyncio.shield(self._replace(process))
                if status in GAVE_UP:
                    raise Unchecked(TOO_COSTLY) from None
                log.warning("a process that checks schemas has died, exit status %d", status)
            except BaseException:  # cancelled: nobody waits for its reply, which must not be taken for the next one
                self._replace(process)
                raise
            else:
                self._idle.append(process)
                return read_verdict(verdict, message, path)
        raise Unchecked(NOT_CHECKED)

    def _start(self) -> "CheckerProcess":
        """Raises Unchecked."""
        if self._closed:
            raise Unchecked(NOT_CHECKED)
        try:
            process = CheckerProcess()
        except OSError as error:  # no descriptor, no memory, no interpreter
            log.warning("no process to check schemas can be started: %s", error)
            raise Unchecked(NOT_CHECKED) from None
        self._alive.add(process)
        return process

    def _replace(self, process: "CheckerProcess") -> asyncio.Future[int]:
        """Kill it; the value is its exit status. The next one is first in the list, as it takes a while to be ready."""
        self._alive.discard(process)
        process.socket.close()
        process.popen.kill()
        # The kernel may be busy for a while with what a large process held: a thread waits for that.
        reaped = asyncio.get_running_loop().run_in_executor(None, process.popen.wait)
        self._reaping.add(reaped)
        reaped.add_done_callback(self._reaping.discard)
        with suppress(Unchecked):  # the next check tries it again
            self._idle.insert(0, self._start())
        return reaped

    async def close(self) -> None:
        """Kill all processes, and wait until they are gone. Running checks end in Unchecked."""
        if self._closed:
            return
        self._closed = True
        for process in self._alive:
            process.popen.kill()
        for _ in range(self._limits.processes):  # who had one has noticed
            await self._places.acquire()
        while self._idle:
            self._replace(self._idle.pop())
        for _ in range(self._limits.processes):
            self._places.release()
        if self._reaping:
            await asyncio.wait(self._reaping)


class CheckerProcess:
    """A started process and our end of its socket. It may be asked at once, and one thing at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        try:
            self.popen = subprocess.Popen(
                command(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in LIBRARY_PATHS if name in os.environ},
                start_new_session=True,  # Ctrl-C is for us
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()

    async def ask(self, schema: bytes, text: bytes, cpu_s: float) -> tuple[Verdict, str, str]:
        """A verdict, its message and pointer. Raises OSError or EOFError where the process is of no use any more."""
        head = HEAD.pack(len(schema), len(text), int(cpu_s * 1e6))
        await asyncio.get_running_loop().sock_sendall(self.socket, head + schema + text)
        (size,) = SIZE.unpack(await self._read(SIZE.size))
        try:
            if size > MOST_REPLY_BYTES:
                raise ValueError
            verdict, message, path = orjson.loads(await self._read(size))
            return Verdict(verdict), message, path
        except ValueError:
            raise EOFError from None  # no reply of ours

    async def _read(self, size: int) -> bytes:
        loop, received = asyncio.get_running_loop(), b""
        while len(received) < size:
            more = await loop.sock_recv(self.socket, size - len(received))
            if not more:
                raise EOFError
            received += more
        return received


def command() -> list[str]:
    """What we could import, it can, from wherever we were started; it reads no variables, no user's site, no `.pth`."""
    paths = [os.path.abspath(path) for path in sys.path if path]
    return [sys.executable, "-I", "-S", "-c", BOOT, *paths, str(ROOT)]


def read_verdict(verdict: Verdict, message: str, path: str) -> Problem | None:
    match verdict:
        case Verdict.FITS:
            return None
        case Verdict.MISFIT:
            return Problem(message, path)
        case Verdict.BAD_SCHEMA:
            raise BadSchema(message, path)
        case Verdict.TOO_COSTLY:
            raise Unchecked(TOO_COSTLY)
        case never:
            assert_never(never)
