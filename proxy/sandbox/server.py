"""The sandbox's server: connections, what they ask for, and which script answers them."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httptools
import orjson

from proxy.sandbox.dialects import DIALECTS, Refusal
from proxy.sandbox.pages import VERSION, Counters, metrics_page, models_page
from proxy.sandbox.play import Play, Stage, plan_completion, plan_refusal, whole
from proxy.sandbox.player import Player, reset
from proxy.sandbox.script import Script, ScriptError, changed, parse_changes, without_directive
from proxy.sandbox.tokens import content_text

SCRIPT_HEADER = "x-sandbox-script"
MOST_BODY_BYTES = 64 << 20
MOST_PIPELINED_REQUESTS = 16
BACKLOG_CONNECTIONS = 1_024
AS_ASKED = Script()
OPEN_PAGES = ("/health", "/version", "/metrics")  # as vLLM leaves them, even with a key


@dataclass(slots=True)
class Received:
    """A request and what became of it. `over` is set when nothing more will be written for it."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw_body: bytes = b""
    body: Any = None
    script: Script = AS_ASKED
    keep_alive: bool = True
    tokens: int = 0
    finished: bool = False
    client_left: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Sandbox:
    """A fake provider on a port of its own.

    `script` is how it answers; `scripts` are used up first, one a completion. `requests` remembers the last ones,
    completions and pages. With `slots` it generates so many answers at once and the others wait.
    """

    def __init__(
        self,
        dialect: str = "sandbox",
        *,
        script: Script = AS_ASKED,
        api_key: str | None = None,
        model: str = "NousResearch/Hermes-4-405B",
        context_tokens: int = 131_072,
        name: str | None = None,
        slots: int | None = None,
        keepalive_s: float = 5.0,
        remembered_requests: int = 10_000,
    ) -> None:
        self.dialect = DIALECTS[dialect]
        self.name = name or dialect
        self.script = script
        self.api_key = api_key
        self.model = model
        self.context_tokens = context_tokens
        self.slots = slots
        self.keepalive_s = keepalive_s
        self.scripts: deque[Script] = deque()
        self.requests: deque[Received] = deque(maxlen=remembered_requests)
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.connections_accepted = 0
        self.base_url = ""
        self._queue: deque[Connection] = deque()
        self._flaps = 0
        self._stopping = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Then `base_url` is where."""
        loop = asyncio.get_running_loop()
        self._stopping = False
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG_CONNECTIONS)
        bound = self._server.sockets[0].getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.base_url = f"http://{shown}:{bound[1]}/v1"

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        self._stopping = True
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
            await connection.closed.wait()
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def refuses_connection(self) -> bool:
        """Whether the next connection is to be closed at once. A queued script that says so is used up."""
        if self._stopping:  # it was accepted before `stop`, which would wait for it
            return True
        if self.scripts:
            if self.scripts[0].fault == "refuse":
                self.scripts.popleft()
                return True
            return False
        return self.script.fault == "refuse"

    def plan(self, received: Received) -> Play:
        """How to answer `received`; fills in its body and its script."""
        path = urlsplit(received.path).path
        stage = self._stage(received)
        authorized = self.api_key is None or received.headers.get("authorization") == f"Bearer {self.api_key}"
        if not authorized and not path.endswith(OPEN_PAGES):
            return plan_refusal(stage, Refusal(401, "unauthorized", "Invalid API key"))
        if received.method == "POST" and path.endswith("/completions"):
            return self._plan_completion(received, stage, raw=not path.endswith("/chat/completions"))
        return self._plan_page(received.method, path, stage)

    def admit(self, connection: "Connection") -> bool:
        """Whether to generate now; else the connection's `begin` is called when a slot is free."""
        if self.slots is not None and self.counters.running >= self.slots:
            self._queue.append(connection)
            self.counters.waiting += 1
            return False
        self.counters.running += 1
        return True

    def release(self, connection: "Connection", *, waited_only: bool) -> None:
        if waited_only:
            self._queue.remove(connection)
            self.counters.waiting -= 1
            return
        self.counters.running -= 1
        if self._queue:
            following = self._queue.popleft()
            self.counters.waiting -= 1
            self.counters.running += 1
            following.begin()

    def _plan_completion(self, received: Received, stage: Stage, *, raw: bool) -> Play:
        try:
            received.body = orjson.loads(received.raw_body)
        except orjson.JSONDecodeError as error:
            return plan_refusal(stage, Refusal(400, "bad_request", f"The body is not JSON: {error}"))
        try:
            received.script = self._choose_script(received)
        except ScriptError as error:
            return plan_refusal(stage, Refusal(400, "bad_request", f"The sandbox's script: {error}"))
        if received.script.fault == "flap":
            self._flaps += 1
        flap_fails = received.script.fault == "flap" and self._flaps % 2 == 1
        return plan_completion(replace(stage, script=received.script, flap_fails=flap_fails), received.body, raw=raw)

    def _choose_script(self, received: Received) -> Script:
        """The queue's next; else the default as header and directive change it. Raises ScriptError."""
        if self.scripts:
            return self.scripts.popleft()
        script = self.script
        if text := received.headers.get(SCRIPT_HEADER):
            script = changed(script, parse_changes(text))
        if text := directive(received.body):
            changes = parse_changes(text)
            only = changes.pop("only", None)
            if only in (None, self.name, self.dialect.name):
                if received.body.get("continue_final_message") is True:
                    changes.pop("fault", None)  # it struck in the attempt that this one continues
                script = changed(script, changes)
        return script

    def _plan_page(self, method: str, path: str, stage: Stage) -> Play:
        if method != "GET":
            return plan_refusal(stage, Refusal(405, "bad_request", f"{method} {path}: method not allowed"))
        if path.endswith("/models"):
            body = models_page(self.dialect, self.model, self.context_tokens, stage.created)
            return whole(200, "application/json", body, self.dialect.headers(stage.answer_id))
        if path.endswith("/health"):
            return whole(200, "text/plain", b"")
        if path.endswith("/version"):
            return whole(200, "application/json", orjson.dumps({"version": VERSION}))
        if path.endswith("/metrics"):
            return whole(200, "text/plain; version=0.0.4", metrics_page(self.counters, self.model))
        return plan_refusal(stage, Refusal(404, "not_found", f"Not Found: {path}"))

    def _stage(self, received: Received) -> Stage:
        request_id = received.headers.get("x-request-id") or uuid.uuid4().hex
        answer_id = f"{self.dialect.id_prefix}{request_id}"
        return Stage(self.dialect, self.script, self.model, self.context_tokens, answer_id, int(time.time()))


def directive(body: Any) -> str | None:
    """The script that the last user message ends in."""
    messages = body.get("messages") if isinstance(body, dict) else None
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return without_directive(content_text(message.get("content")))[1]
    return None


class Connection(asyncio.Protocol):
    """One connection: requests in, one after another, each answered by a player."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.closed = asyncio.Event()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._asked: deque[Received] = deque()
        self._received: Received | None = None
        self._play: Play | None = None
        self._player: Player | None = None
        self._stale = False
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sandbox.connections.add(self)
        self.sandbox.connections_accepted += 1
        if self.sandbox.refuses_connection():
            reset(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()
        self.sandbox.connections.discard(self)
        self._stop_idle()
        if self._received is None:
            return
        if self._player is None:  # still waiting for a slot
            self.sandbox.release(self, waited_only=True)
            self._received.client_left = True
            self._received.over.set()
        elif not self._player.over:
            self._received.client_left = True
            self._player.abandon()
        self._received = None

    def data_received(self, data: bytes) -> None:
        self._stop_idle()
        if self._stale:
            reset(self.transport)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            body = f"Invalid HTTP request: {error}\n".encode()
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            self.transport.write(body)
            self.transport.close()

    def pause_writing(self) -> None:
        if self._player:
            self._player.pause()

    def resume_writing(self) -> None:
        if self._player:
            self._player.resume()

    # What httptools calls while it parses.

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > MOST_BODY_BYTES:
            raise ValueError(f"the body is larger than {MOST_BODY_BYTES} bytes")

    def on_message_complete(self) -> None:
        received = Received(
            self._parser.get_method().decode(),
            self._url.decode("latin-1"),
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers},
            bytes(self._body),
            keep_alive=self._parser.should_keep_alive(),
        )
        self._asked.append(received)
        if len(self._asked) > MOST_PIPELINED_REQUESTS:
            self.transport.abort()
        elif self._received is None:
            self._serve_next()

    # From a request to its end.

    def _serve_next(self) -> None:
        self._received = received = self._asked.popleft()
        self.sandbox.requests.append(received)
        self._play, self._player = self.sandbox.plan(received), None
        if not self._play.prompt_tokens or self.sandbox.admit(self):  # only what generates needs a slot
            self.begin()

    def begin(self) -> None:
        """Answer. Called by the sandbox for a request that had to wait."""
        assert self._play is not None
        assert self._received is not None
        counters = self.sandbox.counters
        counters.prompt_tokens += self._play.prompt_tokens
        counters.kv_tokens += self._play.prompt_tokens
        counters.cache_queries += self._play.prompt_tokens
        counters.cache_hits += self._play.cached_tokens
        self._player = Player(self.transport, self._play, self._received.script, self._over)
        self._player.begin()

    def _over(self, finished: bool) -> None:
        assert self._play is not None
        assert self._player is not None
        assert self._received is not None
        received, self._received = self._received, None
        received.tokens = self._player.tokens
        received.finished = finished
        received.over.set()
        counters = self.sandbox.counters
        counters.generation_tokens += received.tokens
        counters.kv_tokens -= self._play.prompt_tokens
        if self._play.prompt_tokens:
            counters.finished[self._play.finish_reason if finished else "abort"] += 1
            self.sandbox.release(self, waited_only=False)
        if not finished or self.transport.is_closing():
            return
        self._stale = received.script.fault == "stale_keepalive"
        if not received.keep_alive:
            self.transport.close()
        elif self._asked:
            self._serve_next()
        else:
            self._wait_idle()

    def _wait_idle(self) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(self.sandbox.keepalive_s, self.transport.close)

    def _stop_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
