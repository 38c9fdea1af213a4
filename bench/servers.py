"""The processes of the bench: the upstream, and nginx, the pass-through and Caduceus as their users start them.

Each is a context manager that gives what it started once it answers, and leaves nothing behind.
"""

import http.client
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, wire

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
KEYLESS = "sk-bench-not-checked-by-a-proxy-that-passes-everything-on"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers on `port`. The process lists are read anew each time: servers fork."""

    name: str
    port: int
    key: str
    log: Path
    proxy_pids: Callable[[], list[int]]
    store_pids: Callable[[], list[int]]


class ServerFailed(Exception):
    """A server could not be started; the message says what it said."""


@contextmanager
def upstream(core: int | None, directory: Path) -> Iterator[Server]:
    port = machine.free_port()
    log = directory / "upstream.log"
    with started([sys.executable, "-m", "bench.upstream", str(port)], core, log) as process:
        wait_until_answers(process, port, "/health", log)
        yield Server("upstream", port, KEYLESS, log, lambda: [process.pid], list)


def nginx_program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(upstream_port: int, core: int | None, directory: Path) -> Iterator[Server]:
    program = nginx_program()
    assert program, "asked for by the caller"
    port = machine.free_port()
    template = string.Template((Path(__file__).parent / "nginx.conf.template").read_text())
    configuration = directory / "nginx.conf"
    configuration.write_text(
        template.substitute(directory=directory, port=port, upstream_port=upstream_port).replace("\n\n", "\n")
    )
    log = directory / "nginx.log"
    with started([program, "-p", str(directory), "-c", str(configuration)], core, log) as process:
        wait_until_answers(process, port, "/health", log)
        yield Server("nginx", port, KEYLESS, log, lambda: machine.tree(process.pid), list)


@contextmanager
def passthrough(upstream_port: int, core: int | None, directory: Path) -> Iterator[Server]:
    port = machine.free_port()
    log = directory / "passthrough.log"
    with started([sys.executable, "-m", "bench.passthrough", str(port), str(upstream_port)], core, log) as process:
        wait_until_answers(process, port, "/health", log)
        yield Server("pass-through", port, KEYLESS, log, lambda: machine.tree(process.pid), list)


@contextmanager
def caduceus(upstream_port: int, core: int | None, directory: Path) -> Iterator[Server]:
    """Caduceus with its embedded Postgres, one vLLM endpoint, a tenant with credit and a key without limits."""
    port, admin_port, data = machine.free_port(), machine.free_port(), directory / "data"
    configuration = directory / "caduceus.toml"
    configuration.write_text(CADUCEUS_TOML.format(port=port, admin_port=admin_port, upstream_port=upstream_port))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CADUCEUS_")}
    environment["CADUCEUS_DATA_DIR"] = str(data)
    program = [str(Path(sys.executable).parent / "caduceus")]
    log = directory / "caduceus.log"
    command = [*program, "serve", "--config", str(configuration)]
    try:
        with started(command, core, log, environment) as process:
            wait_until_answers(process, port, "/readyz", log)

            def ask(*arguments: str) -> dict[str, str]:
                return said([*program, *arguments, "--json", "--config", str(configuration)], environment)

            ask("tenant", "create", "bench", "--credit", "1000000")
            key = ask("key", "create", "bench")["key"]
            store = postmaster_pid(data)
            yield Server(
                "Caduceus",
                port,
                key,
                log,
                lambda: sorted(set(machine.tree(process.pid)) - set(machine.tree(store))),
                lambda: machine.tree(store),
            )
    finally:
        stop_postgres(data)


CADUCEUS_TOML = f"""\
model = "{wire.MODEL}"

[server]
port = {{port}}
admin_port = {{admin_port}}

[[endpoints]]
name = "bench"
provider = "vllm"
base_url = "http://127.0.0.1:{{upstream_port}}/v1"
model_id = "{wire.MODEL}"
price = {{{{ input = "1.00", output = "3.00" }}}}
"""


def said(command: list[str], environment: dict[str, str]) -> dict[str, str]:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=START_LIMIT_S, check=False
    )
    if done.returncode:
        raise ServerFailed(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}{done.stdout}")
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def postmaster_pid(data: Path) -> int:
    """The first line of the `postmaster.pid` below the data directory."""
    for path in sorted(data.rglob("postmaster.pid")):
        return int(path.read_text().split("\n", 1)[0])
    raise ServerFailed(f"no embedded Postgres below {data}")


def stop_postgres(data: Path) -> None:
    """Stop the Postgres that Caduceus left running, as it does when it is killed."""
    try:
        os.kill(postmaster_pid(data), signal.SIGINT)
    except (ServerFailed, ProcessLookupError, ValueError):
        return
    until = time.monotonic() + STOP_LIMIT_S
    while any(data.rglob("postmaster.pid")) and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def started(
    command: list[str], core: int | None, log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, pinned to `core`, writing to `log`; ended by SIGTERM, and by SIGKILL where that takes too long."""
    with machine.pinned(core), log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the bench alone, which ends its servers in order
        )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_answers(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServerFailed(f"it ended with status {process.returncode}\n{tail(log)}")
        if status(port, path) == 200:
            return
        time.sleep(0.05)
    raise ServerFailed(f"GET {path} was not answered with 200 within {START_LIMIT_S:.0f} s\n{tail(log)}")


def status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
