"""A pursuit between scripted endpoints and a client that is a list, all in one log: no socket, no waiting.

talk = Talk(first=[refuses(503)], second=[says("The herald")])
assert await talk.run() is None
assert talk.log == ["ask first", "begin again", "ask second", "client: The herald"]
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from providers.chat_request import ChatRequest
from providers.events import Delta, Failure, FailureKind
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from proxy.config import LimitSettings
from proxy.entry.api_errors import ApiError
from proxy.exchange.formats.checkers import TOO_COSTLY
from proxy.exchange.meter import AttemptReport
from proxy.exchange.planning import PromptLength
from proxy.exchange.pursuit import Environment, Pursuit
from proxy.exchange.reply.reply import Reply
from proxy.routing.observations import Observation, RetryBudget
from proxy.routing.route import Candidate
from proxy.upstream.client import NoConnection, Sink
from tests.proxy.exchange.parts import Clock, candidate, chat, route

EVENTS, JSON = {"content-type": "text/event-stream"}, {"content-type": "application/json"}
CUT = Failure(FailureKind.CUT, "the connection ended within the response")
NO_RESPONSE = Failure(FailureKind.NO_RESPONSE, "the connection ended before a response")
REFUSED = Failure(FailureKind.CONNECT, "connection refused")
COSTLY = '{"costly": true}'
ID = UUID(int=7)


@dataclass(frozen=True, slots=True)
class Response:
    """What an endpoint says once it is asked. `ends` False: the test goes on from there, by `Line.says`."""

    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=lambda: EVENTS)
    body: bytes = b""
    failure: Failure | None = None
    ends: bool = True


def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: %b\n\n" % orjson.dumps(body)


def events(
    content: str = "", thought: str = "", finish: str | None = "stop", usage: tuple[int, int] | None = None
) -> bytes:
    """A word is an event, with the white space before it."""
    said = [event({"reasoning": word}) for word in words(thought)] + [
        event({"content": word}) for word in words(content)
    ]
    if finish is not None:
        said.append(event({}, finish))
    if usage is not None:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        said.append(b"data: %b\n\n" % orjson.dumps({"choices": [], "usage": counts}))
    return b"".join(said)


def words(text: str) -> list[str]:
    spaced = text.split(" ")
    return [word for word in [spaced[0], *(f" {word}" for word in spaced[1:])] if word]


def says(
    content: str = "", *, thought: str = "", finish: str = "stop", usage: tuple[int, int] | None = None
) -> Response:
    """All of a streamed answer."""
    return Response(body=events(content, thought, finish, usage) + b"data: [DONE]\n\n")


def begins(content: str = "", *, thought: str = "") -> Response:
    """The beginning of a streamed answer; the test says what follows."""
    return Response(body=events(content, thought, None), ends=False)


def breaks_off(content: str = "", *, thought: str = "", failure: Failure = CUT) -> Response:
    return Response(body=events(content, thought, None), failure=failure)


def says_plainly(content: str, *, finish: str = "stop", usage: tuple[int, int] = (25, 4)) -> Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Response(headers=JSON, body=orjson.dumps({"choices": [choice], "usage": counts}))


def refuses(status: int, message: str = "no", **headers: str) -> Response:
    return Response(status, JSON | headers, orjson.dumps({"error": {"message": message}}))


def no_response() -> Response:
    return Response(status=None, failure=NO_RESPONSE)


SILENT = Response(status=None, ends=False)


class Line:
    """A connection that plays a response to whoever sends a request on it."""

    def __init__(self, endpoint: str, response: Response, uses: int, upstream: "ScriptedUpstream") -> None:
        self.uses = uses
        self.paused = False
        self._endpoint, self._response, self._upstream = endpoint, response, upstream
        self._sink: Sink | None = None

    def send(self, request: bytes, sink: Sink) -> None:
        path, _, body = request.partition(b" ")
        self._upstream.log.append(f"ask {self._endpoint}")
        self._upstream.asked.append(orjson.loads(body))
        self._upstream.paths.append(path.decode())
        self._sink, response = sink, self._response
        if response.status is not None:
            sink.head(response.status, dict(response.headers))
        if response.body:
            self.says(response.body)
        if response.ends:
            self.ends(response.failure)

    def says(self, body: bytes) -> None:
        """One read of the socket; whoever has aborted hears nothing."""
        if self._sink is not None:
            self._sink.body(body)
        if self._sink is not None:
            self._sink.read()

    def ends(self, failure: Failure | None = None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None and failure is None:
            sink.completed()
        elif sink is not None and failure is not None:
            sink.failed(failure)

    def abort(self) -> None:
        self._sink = None
        self._upstream.log.append(f"leave {self._endpoint}")

    def pause(self) -> None:
        self.paused = True
        self._upstream.log.append(f"pause {self._endpoint}")

    def resume(self) -> None:
        self.paused = False
        self._upstream.log.append(f"resume {self._endpoint}")


class ScriptedUpstream:
    """Endpoints with what each says, request after request; a Failure is a connection that is not to be had.

    `kept_alive` are those to which a used connection is kept. `asked` are the bodies of all requests, in order.
    """

    def __init__(self, scripts: Mapping[str, Sequence[Response | Failure]], log: list[str]) -> None:
        self._scripts = {name: list(script) for name, script in scripts.items()}
        self.kept_alive: set[str] = set()
        self.log = log
        self.asked: list[Any] = []
        self.paths: list[str] = []
        self.lines: list[Line] = []

    async def connect(self, endpoint: str, *, fresh: bool) -> Line:
        response = self._scripts[endpoint].pop(0)
        if isinstance(response, Failure):
            self.log.append(f"{endpoint} refuses a connection")
            raise NoConnection(response)
        uses = 3 if endpoint in self.kept_alive and not fresh else 0
        self.lines.append(Line(endpoint, response, uses, self))
        return self.lines[-1]

    def request(self, endpoint: str, path: str, body: bytes, request_id: str) -> bytes:
        return path.encode() + b" " + body

    @property
    def line(self) -> Line:
        """The one in use."""
        return self.lines[-1]

    @property
    def exhausted(self) -> bool:
        """Whether every endpoint has said all that it had to say."""
        return not any(self._scripts.values())


class RecordingOutlet:
    """A client as a list of deltas. `congested`: it reads nothing until `caught_up` is called."""

    content_type = "text/event-stream"

    def __init__(self, log: list[str], *, delivers: bool) -> None:
        self.delivers = delivers
        self.wanted = self.congested = False
        self.deltas: list[Delta] = []
        self.headers: Mapping[str, str] | None = None
        self._log = log
        self._unsent: list[Delta] = []
        self._drained: asyncio.Future[None] | None = None

    def write(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self._unsent.append(delta)

    def flush(self) -> bool:
        if not self.delivers or not self._unsent:
            return False
        thought, text = joined(self._unsent, "reasoning"), joined(self._unsent, "content")
        self._unsent.clear()
        if thought or text:
            self._log.append(f"client: {f'({thought})' if thought else ''}{text}")
        self.wanted = self.headers is None
        return self.wanted or self.congested

    def name_provider(self, endpoint: str) -> None:
        """The log tells who is asked."""

    def restart(self) -> None:
        self._log.append("begin again")
        self.deltas.clear()
        self._unsent.clear()

    async def open(self, headers: Mapping[str, str]) -> None:
        self._log.append("open")
        self.headers, self.wanted = headers, False

    async def drain(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()
        await self._drained

    def caught_up(self) -> None:
        self.congested = False
        assert self._drained is not None
        self._drained.set_result(None)

    def keep_alive(self, now_s: float, interval_s: float) -> bool:
        return False

    @property
    def text(self) -> str:
        return joined(self.deltas, "content")

    @property
    def thought(self) -> str:
        return joined(self.deltas, "reasoning")

    @property
    def finish_reasons(self) -> list[str]:
        return [delta.finish_reason for delta in self.deltas if delta.finish_reason]

    @property
    def schema_error(self) -> Any:
        return next(
            (delta.extra["schema_error"] for delta in self.deltas if "schema_error" in (delta.extra or {})), None
        )


def joined(deltas: Sequence[Delta], name: str) -> str:
    return "".join(getattr(delta, name) or "" for delta in deltas)


class FakeSchemas:
    """Takes every JSON object for what is wanted; `COSTLY` cannot be checked."""

    async def problem(self, wanted: JsonFormat, text: str, tenant_id: int) -> Problem | None:
        if text == COSTLY:
            return TOO_COSTLY
        try:
            return None if isinstance(orjson.loads(text), dict) else Problem("is not a JSON object")
        except orjson.JSONDecodeError:
            return Problem("is not valid JSON")


class Talk:
    """One pursuit, ready to run. Scripts are the endpoints' by name, tried in this order; they are vLLM's.

    `candidates` says otherwise what an endpoint is, `limits` and `settings` what the pursuit is given.
    """

    def __init__(
        self,
        request: ChatRequest | None = None,
        candidates: Sequence[Candidate] = (),
        *,
        prompt: PromptLength | None = None,
        retry_budget: RetryBudget | None = None,
        limits: Mapping[str, float] | None = None,
        continuation: bool = True,
        **scripts: Sequence[Response | Failure],
    ) -> None:
        self.log: list[str] = []
        self.clock = Clock(100.0)
        self.upstream = ScriptedUpstream(scripts, self.log)
        request = request or chat()
        self.client = RecordingOutlet(self.log, delivers=request.stream)
        self.observations = {name: Observation() for name in scripts}
        self.retry_budget = retry_budget or RetryBudget()
        given = {each.endpoint.name: each for each in candidates}
        reply = Reply(self.client, ID, {}, explained=None, started_s=self.clock(), clock=self.clock)
        environment = Environment(
            self.upstream,
            self.observations,
            self.retry_budget,
            FakeSchemas(),
            LimitSettings(**(limits or {})),
            self.clock,
            random.Random(1),
        )
        self.pursuit = Pursuit(
            request,
            route(*(given.get(name) or candidate(name) for name in scripts)),
            prompt or PromptLength(25, 93),
            reply,
            environment,
            request_id=ID,
            tenant_id=7,
            continuation=continuation,
            started_s=self.clock(),
        )

    async def run(self, max_tokens: int = 1_000) -> ApiError | None:
        """To its end; every endpoint has then been asked for all that it had to say."""
        error = await self.pursuit.run(max_tokens)
        assert self.upstream.exhausted, "somebody was not asked"
        return error

    async def started(self, max_tokens: int = 1_000) -> "asyncio.Task[ApiError | None]":
        """Until it waits for its first endpoint."""
        task = asyncio.create_task(self.pursuit.run(max_tokens))
        await breathe()
        return task

    def tick(self, after_s: float) -> AttemptReport | None:
        """The ticker's visit, so much later: what is delivering then."""
        self.clock.now_s += after_s
        self.pursuit.tick(self.clock.now_s)
        return self.pursuit.delivering()

    @property
    def asked(self) -> list[Any]:
        return self.upstream.asked

    @property
    def reports(self) -> tuple[AttemptReport, ...]:
        return self.pursuit.reports()


async def breathe() -> None:
    """Let every task go on as far as it can without waiting for anything outside."""
    for _ in range(5):
        await asyncio.sleep(0)
