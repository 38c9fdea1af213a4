"""The whole proxy in one process: a ledger in Postgres, the service, a listening server, sandboxes as its endpoints.

A test asks for `open_house`, says which endpoints there are, and talks to them through `house.chat`. When the test is
over the books of the house must be in order, whatever happened to it.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import asyncpg
import orjson
import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.accounts.credit import add_credit
from ledger.accounts.tenants import create_tenant
from ledger.journal.store import Store
from ledger.money import parse_usd
from ledger.reports.audit import audit
from proxy.config import EndpointSettings, LimitSettings, PriceSettings, ServerSettings, Settings
from proxy.routing.endpoints import make_endpoint
from proxy.routing.observations import Observation, RetryBudget
from proxy.sandbox.server import Received, Sandbox
from proxy.serving.app import Service, open_service, serving

SECRET_KEY = b"0123456789abcdef"
MODEL = "NousResearch/Hermes-4-405B"
HELLO = "Hello there"
SETTLED_WITHIN_S = 30.0
PRICE = ("1.00", "3.00")  # USD a million tokens

Places = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class Answer:
    """What a client got. `events` are the JSON payloads of a stream, `done` whether `[DONE]` ended it."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    body: Any = None
    events: list[Any] = field(default_factory=list)
    comments: int = 0
    done: bool = False

    @property
    def error(self) -> Any:
        if self.events:
            return next((event["error"] for event in self.events if "error" in event), None)
        return self.body.get("error") if isinstance(self.body, dict) else None

    @property
    def usage(self) -> Any:
        found = [event["usage"] for event in self.events if event.get("usage")]
        return found[-1] if found else (self.body or {}).get("usage")

    @property
    def text(self) -> str:
        return self.joined("content")

    @property
    def finish_reason(self) -> str | None:
        found = [choice["finish_reason"] for choice in self.choices if choice.get("finish_reason")]
        return found[-1] if found else None

    @property
    def choices(self) -> list[Any]:
        bodies = self.events or [self.body or {}]
        return [choice for body in bodies for choice in body.get("choices", ())]

    def joined(self, name: str, index: int = 0) -> str:
        """A field of the message, put together where it was streamed."""
        parts = [one.get("delta") or one.get("message") or {} for one in self.choices if one["index"] == index]
        return "".join(part.get(name) or "" for part in parts)


def read_answer(status: int, headers: Mapping[str, str], raw: bytes) -> Answer:
    """As a strict client reads it: every event is `data: ` and one line of JSON, or a comment."""
    answer = Answer(status, headers, raw)
    if not headers.get("Content-Type", "").startswith("text/event-stream"):
        answer.body = orjson.loads(raw) if raw else None
        return answer
    assert raw == b"" or raw.endswith(b"\n\n"), raw[-200:]
    for block in raw.split(b"\n\n")[:-1]:
        assert not answer.done, "nothing comes after [DONE]"
        assert b"\n" not in block, block
        if block.startswith(b":"):
            answer.comments += 1
        elif block == b"data: [DONE]":
            answer.done = True
        else:
            assert block.startswith(b"data: "), block
            answer.events.append(orjson.loads(block[6:]))
    return answer


class FixedDice(random.Random):
    """No exploration, and the first of near-equals."""

    def random(self) -> float:
        return 0.5


@dataclass(slots=True)
class House:
    """A running proxy. `house["first"]` is the sandbox behind the endpoint of that name."""

    address: str
    service: Service
    store: Store
    sandboxes: Mapping[str, Sandbox]
    places: Sequence[str]
    key: str
    db: asyncpg.Connection
    database_url: str
    client: aiohttp.ClientSession
    stop: Callable[[], Awaitable[None]]
    """Drain and stop the server, as a signal does."""
    opened: list[asyncio.StreamWriter] = field(default_factory=list)
    """The bare connections; whoever left one open does not keep it."""
    seen: int = 0

    def __getitem__(self, name: str) -> Sandbox:
        return self.sandboxes[name]

    def asked(self, name: str) -> list[Received]:
        """The completions that an endpoint was asked for."""
        return [one for one in self[name].requests if one.path.endswith("/completions")]

    def body(self, text: str = HELLO, **fields: Any) -> dict[str, Any]:
        """A request that tries the endpoints in the order in which the house was given them."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        return {**body, "provider": {"order": list(self.places)}, **fields}

    def post(self, body: Any, *, key: str | None = None, **headers: str) -> Any:
        """The response of aiohttp's client, to be used with `async with`."""
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json", **headers}
        data = BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        return self.client.post(f"{self.address}/v1/chat/completions", data=data, headers=headers)

    async def send(self, body: Any, *, key: str | None = None, **headers: str) -> Answer:
        async with self.post(body, key=key, **headers) as response:
            return read_answer(response.status, response.headers, await response.read())

    async def chat(
        self, text: str = HELLO, *, key: str | None = None, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Answer:
        return await self.send(self.body(text, **fields), key=key, **(headers or {}))

    async def stream(self, text: str = HELLO, **fields: Any) -> Answer:
        return await self.chat(text, **{"stream": True, "stream_options": {"include_usage": True}, **fields})

    async def raw(self, *, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection to the server; with `receive_bytes` it takes in no more than about that unread."""
        parts = urlsplit(self.address)
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
        self.opened.append(writer)
        return reader, writer

    def request_bytes(self, body: Any, *headers: str, version: str = "1.1") -> bytes:
        """A POST as it goes over the wire."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        lines = [
            f"POST /v1/chat/completions HTTP/{version}",
            "host: test",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            *headers,
        ]
        if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
            lines.append(f"content-length: {len(data)}")
        return "\r\n".join([*lines, "", ""]).encode() + data

    async def tenant(
        self, name: str, credit_usd: str | None = None, *, who: Mapping[str, Any] | None = None, **key_settings: Any
    ) -> str:
        """Another tenant, with `who` it is; its key."""
        async with administration(self.database_url) as db:
            await create_tenant(db, name, actor="test", **(who or {}))
            if credit_usd is not None:
                await add_credit(db, name, parse_usd(credit_usd), reference="test", actor="test")
            return (await create_key(db, name, SECRET_KEY, actor="test", **key_settings))[1]

    async def settled(self, expected: int | None = None) -> list[asyncpg.Record]:
        """All requests in order of their ids, when nothing is held any more (and so many are there)."""
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while True:
                held = await self.db.fetchval("SELECT count(*) FROM hold")
                rows = await self.db.fetch("SELECT * FROM request ORDER BY id")
                if not held and not self.service.running.exchanges and expected in (None, len(rows)):
                    return rows
                await asyncio.sleep(0.02)

    def attempts(self) -> Sequence[Any]:
        """The reports of the attempts of the one request that runs; none where none runs."""
        return [report for exchange in self.service.running.exchanges for report in exchange.pursuit.reports()]

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for something to be so."""
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while not true():  # noqa: ASYNC110 (whatever it is, it knows no event)
                await asyncio.sleep(0.01)

    async def blocked(self) -> None:
        """Wait until somebody waits for a lock that the transaction on `db` holds."""
        waits = (
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
        )
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while not await self.db.fetchval(waits):  # noqa: ASYNC110 (Postgres tells nobody)
                await asyncio.sleep(0.01)

    async def only_request(self) -> asyncpg.Record:
        """The one request that was made since the last time this was asked."""
        self.seen += 1
        return (await self.settled(self.seen))[-1]

    def forget(self) -> None:
        """Nothing was ever observed of any endpoint, and nothing tried again."""
        budget, new = self.service.retry_budget, RetryBudget()
        budget.requests, budget.tokens, budget.at_s = new.requests, new.tokens, new.at_s
        self.service.observations.update({name: Observation() for name in self.places})


class Wire:
    """A line to Postgres that can be cut and mended. `url` is the database by way of it."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = dict(parse_qsl(parts.query))
        self._host, self._port = query.get("host", parts.hostname or ""), int(query.get("port", parts.port or 5432))
        self._login = parts.netloc.rpartition("@")[0]
        self._path = parts.path
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._local_port = 0

    @property
    def url(self) -> str:
        return f"postgresql://{self._login}@127.0.0.1:{self._local_port}{self._path}?sslmode=disable"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._local_port)
        self._local_port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """New connections are refused, those there are break."""
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            there = await asyncio.open_connection(self._host, self._port)
        self._ends |= {writer, there[1]}
        await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()
        self._ends.discard(writer)


@asynccontextmanager
async def running_house(
    database_url: str, serving_url: str, places: Places, limits: Mapping[str, Any]
) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        sandboxes = {
            name: await stack.enter_async_context(
                Sandbox(place.get("dialect", place.get("provider", "vllm")), **place.get("sandbox", {}))
            )
            for name, place in places.items()
            if "base_url" not in place
        }
        endpoints = tuple(endpoint(name, place, sandboxes.get(name)) for name, place in places.items())
        key = await first_tenant(database_url)
        db = await asyncpg.connect(database_url)
        stack.push_async_callback(db.close)
        settings = Settings(server=ServerSettings(port=0), limits=LimitSettings(**limits))
        store = await stack.enter_async_context(Store.open(serving_url, server_name="test"))
        service = await stack.enter_async_context(open_service(settings, store, SECRET_KEY, endpoints, FixedDice()))
        server = await stack.enter_async_context(AsyncExitStack())
        address = await server.enter_async_context(serving(service))
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        house = House(address, service, store, sandboxes, list(places), key, db, database_url, client, server.aclose)
        try:
            yield house
        finally:
            for writer in house.opened:
                writer.transport.abort()


def endpoint(name: str, place: Mapping[str, Any], sandbox: Sandbox | None) -> Any:
    given = {key: value for key, value in place.items() if key not in ("dialect", "sandbox", "price")}
    amounts = zip(("input", "output", "cached_input"), place.get("price", PRICE), strict=False)
    settings = EndpointSettings(
        **{
            "name": name,
            "provider": "vllm",
            "model_id": MODEL,
            "failure_domain": name,
            "price": PriceSettings(**dict(amounts)),
            **({"base_url": sandbox.base_url} if sandbox else {}),
            **given,
        }
    )
    return make_endpoint(settings, {})


async def first_tenant(database_url: str) -> str:
    async with administration(database_url) as db:
        await create_tenant(db, "default", actor="test")
        await add_credit(db, "default", parse_usd("100"), reference="test", actor="test")
        return (await create_key(db, "default", SECRET_KEY, actor="test"))[1]


async def prove_books(database_url: str) -> None:
    """Everything that was held is settled, and every sum is what the journal says."""
    async with administration(database_url) as db:
        found = await audit(db)
    assert not found.open_holds
    assert found.ok, [check for check in found.checks if not check.ok]


OpenHouse = Callable[..., Any]


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    """The line to Postgres of a house that is opened with `url=wire.url`; it outlives the house."""
    wire = Wire(database_url)
    await wire.mend()
    yield wire
    wire.cut()


@pytest.fixture
async def open_house(database_url: str, wire: Wire) -> AsyncIterator[OpenHouse]:
    """`await open_house({name: settings}, **limits)`: settings of an endpoint, beside them `dialect` and `sandbox`.

    `url` is where the proxy finds Postgres. At the end the house is closed, and its books are proved.
    """
    async with AsyncExitStack() as stack:

        async def open_house(places: Places | None = None, *, url: str = database_url, **limits: Any) -> House:
            places = {"first": {}, "second": {}} if places is None else places
            stack.push_async_callback(prove_books, database_url)  # called after the house has closed
            house: House = await stack.enter_async_context(running_house(database_url, url, places, limits))
            return house

        yield open_house


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    """Two endpoints of vLLM's dialect, tried in this order."""
    return await open_house()


@pytest.fixture(autouse=True)
def _what_recurs_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.journal.store.WATCH_INTERVAL_S", 0.1)
    monkeypatch.setattr("proxy.entry.silent_clients.LOOK_S", 0.05)


trusting = cache(ssl.create_default_context)  # reading the certificates takes longer than anything else in a house


@pytest.fixture(autouse=True)
def _certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", trusting)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[[Serve], Awaitable[str]]]:
    """`await upstream(serve)` listens and gives a base URL; `serve` writes what no sandbox would say.

    It is called once a connection, when a whole request has been read; the connection is closed after it.
    """
    servers: list[asyncio.Server] = []
    running: set[asyncio.Task[None]] = set()

    async def listen(serve: Serve) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                await serve(reader, writer)
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the proxy left, or the test is over
            finally:
                running.discard(task)
                writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        host, port = servers[-1].sockets[0].getsockname()
        return f"http://{host}:{port}/v1"

    yield listen
    for task in list(running):
        task.cancel()
    for server in servers:
        server.close()
        await server.wait_closed()
