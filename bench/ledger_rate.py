"""What the ledger does without HTTP in front of it, beside `pgbench` TPC-B on the same server: a Postgres of its own,
both cores. A request is a hold and a settlement, each awaited until it is durable.
"""

import asyncio
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ledger import keys
from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.accounts.credit import add_credit
from ledger.accounts.tenants import create_tenant
from ledger.billing import Delivery, Ending, Tokens, UsageSource, bill
from ledger.journal.migrate import upgrade
from ledger.journal.pins import Pin, encode_pins
from ledger.journal.store import Store
from ledger.journal.writes import Hold, Settlement
from ledger.prices import Price
from ledger.request_ids import new_request_id
from proxy.postgres.embedded import EmbeddedPostgres

CONCURRENT_REQUESTS = 500
PGBENCH_CLIENTS, PGBENCH_THREADS, PGBENCH_SCALE = 16, 2, 10
PRICE = Price(1, 1_000_000, 3_000_000, 1_000_000)
TOKENS = Tokens(42, 0, 16, 4)
SECRET = b"bench"
TENANT = "bench"
CREDIT_PUSD = 10**18


@dataclass(frozen=True, slots=True)
class LedgerRate:
    """A request is a hold and its settlement; pgbench counts transactions."""

    requests_per_s: float
    pgbench_per_s: float


def measure(directory: Path, window_s: float) -> LedgerRate:
    with EmbeddedPostgres(directory / "ledger") as postgres:
        upgrade(postgres.url)
        return LedgerRate(asyncio.run(requests_per_s(postgres.url, window_s)), pgbench_per_s(postgres, window_s))


async def requests_per_s(url: str, window_s: float) -> float:
    async with Store.open(url, server_name="bench") as store:
        async with administration(url) as db:
            await create_tenant(db, TENANT, actor="bench")
            await add_credit(db, TENANT, CREDIT_PUSD, reference="bench", actor="bench")
            _, secret = await create_key(db, TENANT, SECRET, actor="bench")
        key = await store.find_key(keys.digest(secret, SECRET))
        assert key is not None
        begin, end = time.monotonic() + 1, time.monotonic() + 1 + window_s
        done = await asyncio.gather(*(requests_between(store, key, begin, end) for _ in range(CONCURRENT_REQUESTS)))
        return sum(done) / window_s


async def requests_between(store: Store, key: keys.KeyRecord, begin: float, end: float) -> int:
    """Hold and settle one request after the other until `end`; how many ended after `begin`, both by the clock."""
    done = 0
    while True:
        request = new_hold(key)
        outcome = await store.hold(request)
        assert outcome.accepted
        await store.settle(new_settlement(request))
        now = time.monotonic()
        if now > end:
            return done
        done += now > begin


def new_hold(key: keys.KeyRecord) -> Hold:
    return Hold(
        request_id=new_request_id(),
        account_id=key.account_id,
        tenant_id=key.tenant_id,
        key_id=key.key_id,
        amount_pusd=10**9,
        credit_limit_pusd=key.credit_limit_pusd,
        expires_after_s=60,
        pins=encode_pins({"bench": Pin("vllm", False, PRICE, PRICE)}),
    )


def new_settlement(hold: Hold) -> Settlement:
    delivery = Delivery(
        endpoint="bench",
        provider="vllm",
        sandbox=False,
        sell=PRICE,
        buy=PRICE,
        reported=TOKENS,
        reported_source=UsageSource.PROVIDER,
        counted=TOKENS,
        counted_exactly=False,
        ending=Ending.COMPLETE,
    )
    return Settlement(
        request_id=hold.request_id,
        account_id=hold.account_id,
        tenant_id=hold.tenant_id,
        key_id=hold.key_id,
        hold_pusd=hold.amount_pusd,
        bill=bill([delivery], hold.amount_pusd),
        state="completed",
        endpoint="bench",
        surface="chat",
        model="bench",
        region=None,
        attempts=b"[]",
        total_ms=1,
        upstream_contacted=True,
    )


def pgbench_per_s(postgres: EmbeddedPostgres, window_s: float) -> float:
    """TPC-B, prepared statements, durable commits, in a database of its own."""
    parts = urlsplit(postgres.url)
    host, port = (parse_qs(parts.query)[name][0] for name in ("host", "port"))
    where = ["-h", host, "-p", port, "-U", str(parts.username)]

    def run(program: str, *arguments: str) -> str:
        command = [str(postgres.binaries / program), *where, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=window_s + 60).stdout

    run("psql", "-q", "-d", parts.path.lstrip("/"), "-c", "CREATE DATABASE pgbench")
    run("pgbench", "-q", "-i", "-s", str(PGBENCH_SCALE), "pgbench")
    clients = ["-c", str(PGBENCH_CLIENTS), "-j", str(PGBENCH_THREADS), "-M", "prepared"]
    said = run("pgbench", *clients, "-T", str(round(window_s)), "pgbench")
    found = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
    assert found, said
    return float(found[1])
