"""`caduceus serve [--demo]`: the parent keeps Postgres alive and the workers running, a worker serves."""

import argparse
import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from proxy.config import Settings
from proxy.errors import CommandError
from proxy.postgres.embedded import DataDirectoryLock
from proxy.routing.endpoints import load_endpoints
from proxy.serving.database import Database, open_database
from proxy.serving.demo import Demo
from proxy.serving.preparation import KEY_FILE, TENANT, Preparation, prepare
from proxy.serving.worker import Worker, serve_forever

REVIVE_S = 1.0
RESTART_S = 1.0


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    serve = commands.add_parser("serve", parents=[common], help="serve the API")
    serve.add_argument("--demo", action="store_true", help="with a tenant, a key and, lacking providers, a sandbox")
    serve.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    endpoints = load_endpoints(settings, os.environ)
    sandboxed = args.demo and not endpoints and settings.endpoints is None
    if not endpoints and not sandboxed:
        raise CommandError(
            "no endpoint is configured: list some in caduceus.toml, set a provider's key such as NEBIUS_API_KEY,"
            " or try `caduceus serve --demo`"
        )
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with DataDirectoryLock(settings.data_dir), open_database(settings, status=say) as database, kept_alive(database):
        if database.embedded is not None or args.demo:
            demo_dir = settings.data_dir if args.demo else None
            prepare(Preparation(database.url, database.migrate_url, database.secret_key, demo_dir))
        demo = Demo(TENANT, (settings.data_dir / KEY_FILE).read_text().strip()) if args.demo else None
        worker = Worker(settings, database.url, database.secret_key, sandboxed=sandboxed)
        if settings.server.workers == 1:
            asyncio.run(serve_forever(worker, ready=lambda address: announce(address, demo, sandboxed=sandboxed)))
        else:
            Pool(worker, settings.server.workers, demo).run()
    say("stopped")
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def kept_alive(database: Database) -> Iterator[None]:
    """While the block runs, an embedded Postgres that dies is started again."""
    stop = threading.Event()
    embedded = database.embedded

    def revive() -> None:
        while embedded is not None and not stop.wait(REVIVE_S):
            try:
                if embedded.revive():
                    say("Postgres had died and was started again")
            except Exception as error:  # tried again after REVIVE_S
                say(f"Postgres cannot be started: {error}")

    thread = threading.Thread(target=revive, name="postgres-keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def announce(address: str, demo: Demo | None, *, sandboxed: bool) -> None:
    print(f"Caduceus serves on {address}")
    if demo is not None:
        if sandboxed:
            print("No provider's key is set (NEBIUS_API_KEY, OPENROUTER_API_KEY, …): a sandbox answers, not the model.")
        print(f"Tenant {demo.tenant}, key {demo.key}\n\n{demo.curl(address)}\n\nCtrl-C drains and stops.")
    sys.stdout.flush()


@dataclass
class Pool:
    """Several workers that share the port; one that dies is replaced."""

    worker: Worker
    size: int
    demo: Demo | None

    def run(self) -> None:
        stop = threading.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda *_: stop.set())
        processes = [self.start(number) for number in range(self.size)]
        server = self.worker.settings.server
        announce(f"http://{server.host}:{server.port}", self.demo, sandboxed=self.worker.sandboxed)
        while not stop.wait(RESTART_S):
            for number, process in enumerate(processes):
                if not process.is_alive():
                    say(f"worker {number} ended with {process.exitcode}; starting another")
                    processes[number] = self.start(number)
        for process in processes:
            process.terminate()
        deadline_s = time.monotonic() + self.worker.settings.limits.drain_s + 10
        for process in processes:
            process.join(max(deadline_s - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()

    def start(self, number: int) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=run_worker, args=(self.worker.numbered(number),), name=f"worker-{number}"
        )
        process.start()
        return process


def run_worker(worker: Worker) -> None:
    asyncio.run(serve_forever(worker, ready=lambda _: None))
