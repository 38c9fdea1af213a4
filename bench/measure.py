"""The workloads, and what each of them says about one server."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import machine
from bench.load import Mark
from bench.servers import ROOT, Server

STREAMS = 200
EVENTS_PER_S = 50
PLAIN_CONNECTIONS = 32
PLAIN_TOKENS = 16
PLAIN_REQUESTS_PER_S = 1_000
WARM_UP_S = 2.0
OPEN_STREAMS = (200, 1_000)
OPEN_EVENTS_PER_S = 2
LATENCY_REQUESTS_PER_S = 100
LATENCY_S = 4.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share. `watch(server, name, length_s)` is called when a measured window begins."""

    upstream: Server
    cores: machine.Cores
    window_s: float
    watch: Callable[[Server, str, float], None]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time under load. Processor times in seconds, of the whole process tree."""

    wall_s: float
    requests: int
    events: int
    reads: int
    proxy_cpu_s: float
    store_cpu_s: float
    load_core_busy: float
    others_busy: float  # cores that other programs took meanwhile
    first_byte_ms: dict[str, float] | None
    whole_ms: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes by open streams: of the largest process of the proxy, which is a worker, and of all of them."""

    worker_bytes: dict[int, int]
    all_bytes: dict[int, int]

    @property
    def bytes_per_stream(self) -> float:
        """The slope between the fewest and the most open streams, so that what the first ones warm up is left out."""
        few, many = OPEN_STREAMS[0], OPEN_STREAMS[-1]
        return (self.all_bytes[many] - self.all_bytes[few]) / (many - few)


@dataclass(slots=True)
class Figures:
    """What was measured of one server; None is what was not asked for."""

    name: str
    streams: Window | None = None
    plain: Window | None = None
    peak: Window | None = None
    latency: Window | None = None
    memory: Memory | None = None


class LoadFailed(Exception):
    """An answer was wrong, so that the figures mean nothing."""


def warm_up(bench: Bench, server: Server) -> None:
    """A little of every kind of request, so that what happens only once is not measured."""
    for stream in ([], ["--stream"]):
        with load(bench, server, PLAIN_CONNECTIONS, [f"--tokens={PLAIN_TOKENS}", "--rate=200", *stream]):
            time.sleep(WARM_UP_S / 2)


def streams(bench: Bench, server: Server) -> Window:
    """Paced streams that all begin before the window and end after it, so that the window measures events alone."""
    lead_s = WARM_UP_S + 1
    tokens = int((lead_s + bench.window_s + 1) * EVENTS_PER_S)
    options = ["--stream", "--once", f"--ramp={WARM_UP_S}", f"--tokens={tokens}", f"--pace={EVENTS_PER_S}"]
    with load(bench, server, STREAMS, options) as run:
        time.sleep(lead_s)
        run.wait_for_open(STREAMS)
        return window(bench, server, run, "streams", bench.window_s)


def plain(bench: Bench, server: Server) -> Window:
    """Whole answers at a rate that leaves both cores room."""
    options = [f"--ramp={WARM_UP_S / 2}", f"--tokens={PLAIN_TOKENS}", f"--rate={PLAIN_REQUESTS_PER_S}"]
    with load(bench, server, PLAIN_CONNECTIONS, options) as run:
        time.sleep(WARM_UP_S)
        return window(bench, server, run, "plain", bench.window_s)


def peak(bench: Bench, server: Server) -> Window:
    """As many whole answers as the server, or the load core, can give."""
    with load(bench, server, PLAIN_CONNECTIONS, [f"--tokens={PLAIN_TOKENS}"]) as run:
        time.sleep(WARM_UP_S / 2)
        return window(bench, server, run, "peak", bench.window_s / 2)


def latency(bench: Bench, server: Server) -> Window:
    """The time to the first token, one short stream at a time."""
    options = ["--stream", f"--tokens={PLAIN_TOKENS}", f"--rate={LATENCY_REQUESTS_PER_S}"]
    with load(bench, server, 1, options) as run:
        time.sleep(WARM_UP_S / 2)
        return window(bench, server, run, "latency", LATENCY_S)


def memory(bench: Bench, server: Server) -> Memory:
    """Resident memory after a little traffic, then with ever more slow streams open."""
    worker, everything = {}, {}
    for count in (0, *OPEN_STREAMS):
        ramp_s = count / 200
        options = ["--stream", "--once", f"--ramp={ramp_s}", f"--tokens={int((ramp_s + 4) * OPEN_EVENTS_PER_S)}"]
        with load(bench, server, count, [*options, f"--pace={OPEN_EVENTS_PER_S}"]) as run:
            time.sleep(ramp_s + 1.5)
            run.wait_for_open(count)
            sizes = machine.rss_bytes(server.proxy_pids())
        worker[count], everything[count] = max(sizes), sum(sizes)
    return Memory(worker, everything)


@dataclass(slots=True)
class LoadRun:
    """A load generator at work."""

    process: subprocess.Popen[str]

    def mark(self) -> Mark:
        assert self.process.stdin
        self.process.stdin.write("mark\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Mark:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise LoadFailed(f"the load generator ended with status {self.process.wait()}")
        counters: Mark = json.loads(line)
        if counters["errors"]:
            raise LoadFailed(f"{counters['errors']} answers were wrong; the first one:\n{counters['first_error']}")
        return counters

    def wait_for_open(self, count: int, limit_s: float = 5) -> None:
        until = time.monotonic() + limit_s
        while (now := self.mark()["open"]) != count:
            if time.monotonic() > until:
                raise LoadFailed(f"{now} streams are open, {count} should be")
            time.sleep(0.1)

    def finish(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        if still := self.read()["open"]:
            raise LoadFailed(f"{still} answers did not end")
        self.process.wait(10)


@contextmanager
def load(bench: Bench, server: Server, connections: int, options: list[str]) -> Iterator[LoadRun]:
    """A load generator on its core; at the end its answers are read out, and all must have been right."""
    common = [f"--port={server.port}", f"--key={server.key}", f"--connections={connections}"]
    command = [sys.executable, "-m", "bench.load", *common, *options]
    with machine.pinned(bench.cores.load):
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    watchdog = threading.Timer(bench.window_s + 90, process.kill)
    watchdog.start()
    try:
        run = LoadRun(process)
        run.mark()  # it answers once all its connections are made
        yield run
        run.finish()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def window(bench: Bench, server: Server, run: LoadRun, name: str, length_s: float) -> Window:
    bench.watch(server, name, length_s)
    before = sample(bench, server, run)
    time.sleep(length_s)
    after = sample(bench, server, run)
    wall_s = after.at_s - before.at_s
    return Window(
        wall_s=wall_s,
        requests=after.counters["requests"] - before.counters["requests"],
        events=after.counters["events"] - before.counters["events"],
        reads=after.counters["reads"] - before.counters["reads"],
        proxy_cpu_s=after.proxy_cpu_s - before.proxy_cpu_s,
        store_cpu_s=after.store_cpu_s - before.store_cpu_s,
        load_core_busy=(after.load_cpu_s - before.load_cpu_s) / wall_s,
        others_busy=(after.others_cpu_s - before.others_cpu_s) / wall_s,
        first_byte_ms=after.counters["first_byte_ms"],
        whole_ms=after.counters["whole_ms"],
    )


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    counters: Mark
    proxy_cpu_s: float
    store_cpu_s: float
    load_cpu_s: float
    others_cpu_s: float


def sample(bench: Bench, server: Server, run: LoadRun) -> Sample:
    counters, at_s = run.mark(), time.monotonic()
    proxy_cpu_s, store_cpu_s = machine.cpu_s(server.proxy_pids()), machine.cpu_s(server.store_pids())
    load_cpu_s = machine.cpu_s([run.process.pid, *bench.upstream.proxy_pids()])
    others_cpu_s = machine.busy_s() - proxy_cpu_s - store_cpu_s - load_cpu_s
    return Sample(at_s, counters, proxy_cpu_s, store_cpu_s, load_cpu_s, others_cpu_s)
