"""A ledger for each test, in a database of its own; when the test is over its audit must be clean.

`books` opens tenants and makes holds and settlements; `gate` is a door to Postgres that can be shut, or made to swallow
answers.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.accounts.credit import add_credit
from ledger.accounts.file_prices import FilePrice, sync_file_prices
from ledger.accounts.tenants import create_tenant
from ledger.billing import Bill, Delivery, Ending, Tokens, UsageSource, bill
from ledger.journal.connections import prepare
from ledger.journal.pins import Pin, encode_pins
from ledger.journal.store import Store
from ledger.journal.writes import Hold, Settlement
from ledger.money import parse_usd
from ledger.prices import Price
from ledger.reports import audit
from ledger.request_ids import new_request_id

SECRET_KEY = b"the tests' secret key"
PRICE = Price(version_id=7, input_pusd=1_000_000, output_pusd=3_000_000, cached_input_pusd=100_000)
PINS = encode_pins({"nebius": Pin("nebius", False, PRICE, PRICE), "sandbox": Pin("sandbox", True, PRICE, PRICE)})
USD = 10**12


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant with one key."""

    name: str
    tenant_id: int
    account_id: int
    key_id: int
    key: str
    credit_limit_pusd: int

    def hold(self, amount_pusd: int = USD, *, request_id: UUID | None = None, expires_after_s: float = 60.0) -> Hold:
        return Hold(
            request_id=request_id or new_request_id(),
            account_id=self.account_id,
            tenant_id=self.tenant_id,
            key_id=self.key_id,
            amount_pusd=amount_pusd,
            credit_limit_pusd=self.credit_limit_pusd,
            expires_after_s=expires_after_s,
            pins=PINS,
        )


def delivery(prompt: int = 100, completion: int = 20, **changes: Any) -> Delivery:
    """Delivered in full and honestly counted; 160 µUSD at PRICE."""
    values: dict[str, Any] = {
        "endpoint": "nebius",
        "provider": "nebius",
        "sandbox": False,
        "sell": PRICE,
        "buy": PRICE,
        "reported": Tokens(prompt, completion=completion),
        "reported_source": UsageSource.PROVIDER,
        "counted": Tokens(prompt, completion=completion),
        "counted_exactly": True,
        "ending": Ending.COMPLETE,
    }
    return Delivery(**{**values, **changes})


def settlement(hold: Hold, due: Bill | str | None = "delivered", **changes: Any) -> Settlement:
    """Of `hold`; without `due` for one honest delivery."""
    values: dict[str, Any] = {
        "request_id": hold.request_id,
        "account_id": hold.account_id,
        "tenant_id": hold.tenant_id,
        "key_id": hold.key_id,
        "hold_pusd": hold.amount_pusd,
        "bill": bill([delivery()], hold.amount_pusd) if due == "delivered" else due,
        "state": "completed",
        "endpoint": "nebius",
        "surface": "chat",
        "model": "hermes",
        "region": "eu-north1",
        "attempts": b"[]",
        "total_ms": 12,
        "upstream_contacted": True,
    }
    return Settlement(**{**values, **changes})


class Books:
    """One database, seen by its owner."""

    delivery = staticmethod(delivery)
    settlement = staticmethod(settlement)

    def __init__(self, url: str, owner: asyncpg.Connection) -> None:
        self.url = url
        self.owner = owner
        self.tampered = False
        self._names = iter(range(1000))

    async def customer(self, credit_usd: str | None = "10.00", **settings: Any) -> Customer:
        name, key_settings = f"tenant-{next(self._names)}", settings.pop("key", {})
        async with administration(self.url) as db:
            tenant = await create_tenant(db, name, actor="test", **settings)
            if credit_usd is not None:
                await add_credit(db, name, parse_usd(credit_usd), reference="first", actor="test")
            key, text = await create_key(db, name, SECRET_KEY, actor="test", **key_settings)
        return Customer(name, tenant.id, tenant.account_id, key.id, text, tenant.credit_limit_pusd)

    async def price(self, store: Store, prices: Mapping[str, FilePrice]) -> None:
        """What a configuration says that endpoints cost; `store` knows it when this returns."""
        async with store.reading() as connection:
            await sync_file_prices(connection, prices)
        await store.refresh()

    async def position(self, customer: Customer) -> tuple[int, int, int]:
        """Available, held, owed."""
        query = "SELECT available, held, owed FROM account WHERE id = $1"
        return tuple(await self.owner.fetchrow(query, customer.account_id))

    async def value(self, query: str, *args: Any) -> Any:
        return await self.owner.fetchval(query, *args)

    async def request(self, request_id: UUID) -> asyncpg.Record:
        return await self.owner.fetchrow("SELECT * FROM request WHERE id = $1", request_id)

    async def eventually(self, ask: Callable[[], Awaitable[Any]], wanted: Any, timeout_s: float = 30.0) -> None:
        """Wait until `ask` answers `wanted`."""
        deadline_s = time.monotonic() + timeout_s
        while (found := await ask()) != wanted:
            assert time.monotonic() < deadline_s, f"{found} and not {wanted} after {timeout_s} s"
            await asyncio.sleep(0.01)

    async def audit(self) -> audit.Audit:
        async with administration(self.url) as db:
            return await audit.audit(db)

    @asynccontextmanager
    async def store(self, name: str = "one", url: str | None = None) -> AsyncIterator[Store]:
        async with Store.open(url or self.url, server_name=name) as store:
            yield store

    async def backends(self, application: str) -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"
        return [row[0] for row in await self.owner.fetch(query, application)]


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    owner = await asyncpg.connect(database_url)
    await prepare(owner)
    books = Books(database_url, owner)
    yield books
    result = await books.audit()
    await owner.close()
    assert books.tampered or result.ok, [check for check in result.checks if not check.ok]


@pytest.fixture
def empty_database_url(server: Any) -> Iterator[str]:
    """A database that nobody migrated."""
    name = f"empty_{uuid4().hex}"
    server.execute(f'CREATE DATABASE "{name}"')
    yield re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\g<1>/{name}", server.url)
    server.drop(name)


@pytest.fixture(autouse=True)
def _what_recurs_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.journal.store.CHECKPOINT_INTERVAL_S", 0.02)
    monkeypatch.setattr("ledger.journal.store.WATCH_INTERVAL_S", 0.1)


@pytest.fixture
async def store(books: Books) -> AsyncIterator[Store]:
    async with books.store() as store:
        yield store


class Gate:
    """Forwards to Postgres. Shut, it breaks every connection and accepts none; swallowing, it breaks one as the answer
    to what it sent comes back."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self.swallow = b""
        self.swallowed = 0

    @property
    def url(self) -> str:
        parts = urlsplit(self._upstream)
        return f"postgresql://{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._port}{parts.path}?sslmode=disable"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        self.break_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def break_all(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await self._connect()
        self._writers |= {writer, there}
        state = {"armed": False}
        pumps = [
            asyncio.ensure_future(self._pump(reader, there, state, to_server=True)),
            asyncio.ensure_future(self._pump(there_reader, writer, state, to_server=False)),
        ]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, there):
            end.transport.abort()
            self._writers.discard(end)
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks -= set(pumps)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: dict[str, bool], *, to_server: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if to_server and self.swallow and self.swallow in data:
                state["armed"] = True
            if not to_server and state["armed"]:
                self.swallow = b""
                self.swallowed += 1
                return  # Postgres has answered, and nobody will hear it
            writer.write(data)
            await writer.drain()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._upstream)
        query = parse_qs(parts.query)
        if "host" in query:
            path = Path(query["host"][0]) / f".s.PGSQL.{query.get('port', ['5432'])[0]}"
            return await asyncio.open_unix_connection(str(path))
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)


@pytest.fixture
async def gate(database_url: str) -> AsyncIterator[Gate]:
    gate = Gate(database_url)
    await gate.open()
    yield gate
    await gate.shut()
