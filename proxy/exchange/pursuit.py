"""The attempts of one request, until one has answered or none is left to try.

`run` acts and `_after` decides: a failed attempt is tried again on a fresh connection, moved to another endpoint, or
its answer continued there; `policy.decide` says which.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, assert_never
from uuid import UUID

from providers.adapter import TOKENS_A_MESSAGE
from providers.chat_request import ChatRequest, text_content
from providers.events import Failure, FailureKind
from providers.means import Enforcer
from providers.seam import Seam
from providers.tools.call_reader import CallReader
from proxy.config import LimitSettings
from proxy.entry.api_errors import ApiError
from proxy.exchange.attempt import Assignment, Attempt, Line, Outlet
from proxy.exchange.continuation import generated_tokens, may_go_on, next_part, seam_after, thought_is_over
from proxy.exchange.formats.json_outlet import JsonOutlet, Nowhere
from proxy.exchange.formats.repair import check_and_repair
from proxy.exchange.formats.schemas import Schemas
from proxy.exchange.meter import AttemptReport
from proxy.exchange.planning import PromptLength, output_tokens
from proxy.exchange.policy import (
    Action,
    Deadlines,
    Situation,
    decide,
    failed_request,
    first_token_timeout_s,
    overdue,
    refuses_schema,
)
from proxy.exchange.reply.reply import Reply
from proxy.routing.observations import Observation, RetryBudget
from proxy.routing.route import Candidate, Route
from proxy.upstream.client import NoConnection, Sink


class UpstreamLine(Line, Protocol):
    """A connection that can carry a request."""

    def send(self, request: bytes, sink: Sink) -> None: ...


class Upstream(Protocol):
    """The endpoints, as a pursuit reaches them (`proxy.upstream.client.UpstreamClient`)."""

    async def connect(self, endpoint: str, *, fresh: bool) -> UpstreamLine:
        """Raises NoConnection."""

    def request(self, endpoint: str, path: str, body: bytes, request_id: str) -> bytes:
        """A POST, ready to be sent."""


@dataclass(frozen=True, slots=True)
class Try:
    """What is tried next: an endpoint, on a connection that was used before or not, from the beginning or a seam."""

    candidate: Candidate
    fresh: bool = False
    seam: Seam | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more is tried. `error` None: the answer is there."""

    error: ApiError | None


class Bell:
    """Wakes the one coroutine that waits for it. A ring before the wait is not lost."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring, or at once where it has rung since the last wait."""
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._rung = False


@dataclass(frozen=True, slots=True)
class Environment:
    """What every pursuit of a process shares. `dice` jitter how long an endpoint rests; `clock` tells seconds."""

    upstream: Upstream
    observations: Mapping[str, Observation]
    retry_budget: RetryBudget
    schemas: Schemas
    limits: LimitSettings
    clock: Callable[[], float]
    dice: random.Random


class Pursuit:
    """`run` once; `tick` while it runs; `leave` or `give_up` where it must end before its time."""

    __slots__ = (
        "_attempts",
        "_bell",
        "_chat",
        "_concluded",
        "_continuation",
        "_deadlines",
        "_environment",
        "_failures",
        "_first_part",
        "_max_tokens",
        "_prompt",
        "_remaining",
        "_reply",
        "_request_id",
        "_shaped",
        "_started_s",
        "_tenant_id",
    )

    def __init__(
        self,
        chat: ChatRequest,
        route: Route,
        prompt: PromptLength,
        reply: Reply,
        environment: Environment,
        *,
        request_id: UUID,
        tenant_id: int,
        continuation: bool,
        started_s: float,
    ) -> None:
        """`continuation`: whether an answer may go on at another endpoint."""
        self._chat, self._prompt, self._reply, self._environment = chat, prompt, reply, environment
        self._request_id, self._tenant_id, self._continuation = request_id, tenant_id, continuation
        self._max_tokens = 0
        self._started_s = started_s
        self._remaining = list(route.candidates)
        self._attempts: list[Attempt] = []
        self._failures: list[tuple[Candidate, Failure]] = []
        self._first_part = 0
        self._shaped: JsonOutlet | None = None
        self._concluded = False
        limits = environment.limits
        self._deadlines = Deadlines(started_s + limits.total_timeout_s, 0.0, limits.idle_timeout_s)
        self._bell = Bell()

    async def run(self, max_tokens: int) -> ApiError | None:
        """Try the endpoints of the route in order. None: one has answered; else what the client is told.

        `max_tokens` of output are paid for.
        """
        self._max_tokens = max_tokens
        self._environment.retry_budget.deposit(self._prompt.tokens, self._started_s)
        step: Try | Stop = Try(self._remaining.pop(0))
        while isinstance(step, Try):
            step = self._after(step, await self._try(step))
        if step.error is None and self._shaped is not None:
            assert self._chat.format is not None
            check = partial(self._environment.schemas.problem, self._chat.format, tenant_id=self._tenant_id)
            await check_and_repair(self._shaped, self._chat, check, self._ask_for_correction)
            self._concluded = True
        return step.error

    def reports(self) -> tuple[AttemptReport, ...]:
        """Every attempt as it stands, in order."""
        return tuple(attempt.report() for attempt in self._attempts)

    @property
    def whole(self) -> bool:
        """Whether all of the answer has come, and was checked where it has to be."""
        last = self._attempts[-1].report() if self._attempts else None
        checked = self._shaped is None or self._concluded
        return last is not None and last.answered and not last.cut_short and checked

    # Deciding

    def _after(self, step: Try, tried: AttemptReport) -> Try | Stop:
        """What follows an attempt that has ended."""
        failure, candidate = tried.failure, step.candidate
        if failure is None:
            if not tried.cut_short:
                return Stop(None)
            return Try(candidate, seam=seam_after(self._parts(), close_thought=True))
        if self._refuses_schema(candidate, failure):
            return Try(enforced_by_prompt(candidate), seam=step.seam)
        parts = self._parts()
        delivered = any(part.delivered for part in parts)
        successors = self._successors(parts)
        action = decide(failure, Situation(delivered, bool(successors), tried.fresh, self._remaining, candidate))
        if action is Action.RETRY_HERE:
            return Try(candidate, fresh=True, seam=step.seam)
        self._failures.append((candidate, failure))
        if action is Action.GIVE_UP or self._out_of_time() or not self._may_retry():
            if delivered:
                self._attempts[-1].release()
            return Stop(failed_request(self._failures, delivered=delivered))
        if action is Action.CONTINUE:
            self._remaining.remove(successors[0])
            return Try(successors[0], seam=seam_after(parts, close_thought=thought_is_over(parts)))
        if action is Action.FAIL_OVER:
            self._begin_again()
            return Try(self._remaining.pop(0))
        assert_never(action)

    def _successors(self, parts: Sequence[AttemptReport]) -> list[Candidate]:
        """Those left of the route that could continue what was delivered."""
        if not self._continuation:
            return []
        return [candidate for candidate in self._remaining if may_go_on(self._chat, parts, candidate)]

    def _refuses_schema(self, candidate: Candidate, failure: Failure) -> bool:
        """Whether the endpoint refused a schema that is one, and may be asked once more, in its prompt."""
        asked = candidate.means.enforcer in (Enforcer.ENGINE, Enforcer.PROVIDER)
        return asked and refuses_schema(failure) and self._may_retry()

    def _may_retry(self) -> bool:
        return self._environment.retry_budget.withdraw(self._prompt.tokens)

    def _out_of_time(self) -> bool:
        return self._environment.clock() > self._deadlines.total_at_s

    def _begin_again(self) -> None:
        self._first_part = len(self._attempts)
        self._shaped = None
        self._reply.begin_again()

    def _parts(self) -> list[AttemptReport]:
        """The attempts that the answer is made of so far."""
        return [attempt.report() for attempt in self._attempts[self._first_part :]]

    # Acting

    async def _try(self, step: Try) -> AttemptReport:
        chat, candidate, endpoint = self._chat, step.candidate, step.candidate.endpoint
        parts = self._parts()
        left_tokens = max(output_tokens(endpoint, self._max_tokens, self._prompt) - generated_tokens(parts), 1)
        part = next_part(chat, candidate, parts, step.seam, left_tokens)
        # An emulation may have read half of something, so it goes on with the answer.
        emulation = self._attempts[-1].emulation if step.seam is not None else None
        if emulation is None:
            emulation = endpoint.adapter.emulation(chat, candidate.means, seed=self._request_id.hex)
        self._reply.begin_attempt(endpoint.name)
        stream = chat.stream or endpoint.stream_plain
        assignment = Assignment(
            candidate, plain=not stream, streams=chat.stream, seam=part.seam, our_limits=part.our_limits
        )
        attempt = self._new_attempt(assignment, self._outlet_before(candidate), emulation)
        body = endpoint.adapter.encode(
            chat,
            endpoint.target,
            candidate.means,
            max_tokens=part.output_tokens,
            stream=stream,
            seam=part.seam,
            thought_only=part.thought_only,
        )
        return await self._run(attempt, candidate, body, fresh=step.fresh)

    async def _ask_for_correction(self, correction: ChatRequest) -> str | None:
        """One more try at the endpoint that answered, with what was wrong in its prompt: the JSON that it gives."""
        candidate = self._attempts[-1].candidate
        endpoint = candidate.endpoint
        added = "".join(text_content(message["content"]) for message in correction.messages[len(self._chat.messages) :])
        left_tokens = endpoint.context_tokens - self._prompt.most_tokens
        left_tokens -= len(added.encode()) + 2 * TOKENS_A_MESSAGE
        left_tokens = min(output_tokens(endpoint, self._max_tokens, self._prompt), left_tokens)
        if left_tokens < generated_tokens(self._parts()) or self._out_of_time() or not self._may_retry():
            return None
        stream = endpoint.stream_plain
        assert correction.format is not None
        outlet = JsonOutlet(Nowhere(), correction.format)
        attempt = self._new_attempt(
            Assignment(candidate, plain=not stream, added_prompt=added, repairs=True), outlet, None
        )
        means = endpoint.adapter.means(correction, endpoint.target)
        usual = endpoint.adapter.means(self._chat, endpoint.target)
        if candidate.means.enforcer is Enforcer.PROMPT and usual.enforcer is not Enforcer.PROMPT:
            means = replace(means, enforcer=Enforcer.PROMPT)  # it has refused the schema
        body = endpoint.adapter.encode(correction, endpoint.target, means, max_tokens=left_tokens, stream=stream)
        tried = await self._run(attempt, candidate, body, fresh=True)
        better = outlet.close().get(0)
        return better if tried.failure is None and tried.finish_reason == "stop" else None

    def _new_attempt(self, assignment: Assignment, outlet: Outlet, emulation: CallReader | None) -> Attempt:
        clock = self._environment.clock
        return Attempt(assignment, outlet, clock=clock, attention=self._bell.ring, emulation=emulation)

    def _outlet_before(self, candidate: Candidate) -> Outlet:
        """Where an attempt writes to: through what looks after the JSON that is wanted, where no engine does."""
        if candidate.means.enforcer in (None, Enforcer.ENGINE):
            return self._reply.outlet
        if self._shaped is None:
            assert self._chat.format is not None
            self._shaped = JsonOutlet(self._reply.outlet, self._chat.format)
        return self._shaped

    async def _run(self, attempt: Attempt, candidate: Candidate, body: bytes, *, fresh: bool) -> AttemptReport:
        """Ask, follow until the attempt has ended, and note what it tells of the endpoint."""
        self._attempts.append(attempt)
        limits, observation = self._environment.limits, self._environment.observations[candidate.endpoint.name]
        allowed_s = limits.first_token_timeout_s
        allowed_s += limits.first_token_timeout_per_1k_prompt_s * self._prompt.tokens / 1_000
        expected_s = observation.expected_first_token_s(self._prompt.tokens)
        whole_tokens = self._max_tokens if attempt.plain else 0
        timeout_s = first_token_timeout_s(allowed_s, expected_s, whole_tokens)
        self._deadlines = Deadlines(self._deadlines.total_at_s, timeout_s, limits.idle_timeout_s)
        observation.begin()
        try:
            await self._ask(attempt, candidate, body, fresh=fresh)
            await self._follow(attempt)
        finally:
            report = attempt.report()
            note(report, observation, self._prompt.tokens, self._environment.clock(), self._environment.dice.random())
        return report

    async def _ask(self, attempt: Attempt, candidate: Candidate, body: bytes, *, fresh: bool) -> None:
        try:
            connection = await self._environment.upstream.connect(candidate.endpoint.name, fresh=fresh)
        except NoConnection as error:
            attempt.end(error.failure)
            return
        attempt.begin(connection)
        path = candidate.endpoint.adapter.path(self._chat)
        request = self._environment.upstream.request(candidate.endpoint.name, path, body, str(self._request_id))
        connection.send(request, attempt)

    async def _follow(self, attempt: Attempt) -> None:
        """Until the attempt has ended: open the answer when there is something to say, keep pace with the client."""
        while not attempt.ended:
            await self._bell.wait()
            if self._reply.needs_opening:
                await self._reply.open(self.reports())
            if self._reply.congested and attempt.running:
                attempt.pause()
                await self._reply.keep_pace()
                attempt.resume()

    # The ticker's visit, and an end before its time

    def tick(self, now_s: float) -> None:
        """End the running attempt if it has taken too long; keep the client's connection alive."""
        attempt = self._attempts[-1] if self._attempts else None
        if attempt is None or not attempt.running:  # connecting and checking have timeouts of their own
            self._reply.keep_alive(now_s, self._environment.limits.keepalive_comment_s)
            return
        found = overdue(attempt.progress(now_s), self._deadlines, now_s)
        if found == "complete":
            attempt.complete()
        elif found is not None:
            attempt.end(found)
        elif self._reply.keep_alive(now_s, self._environment.limits.keepalive_comment_s):
            self._bell.ring()

    def delivering(self) -> AttemptReport | None:
        """The attempt that runs and whose content is the answer's, once some has come."""
        attempt = self._attempts[-1] if self._attempts else None
        if attempt is None or not (attempt.running and attempt.committed):
            return None
        report = attempt.report()
        return None if report.repairs else report

    def give_up(self) -> None:
        """End what runs: something broke here."""
        if self._attempts:
            self._attempts[-1].end(Failure(FailureKind.CUT, "given up here"))

    async def leave(self) -> None:
        """The client left: stop the provider, or let it finish where stopping does not stop its bill."""
        attempt = self._attempts[-1] if self._attempts else None
        if attempt is None or not attempt.running:
            return
        if not attempt.candidate.endpoint.adapter.dialect.cancel_stops_billing:
            attempt.resume()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._environment.limits.drain_upstream_s):
                    while not attempt.ended:
                        await self._bell.wait()
        attempt.leave()


def enforced_by_prompt(candidate: Candidate) -> Candidate:
    """The same endpoint, whose prompt now asks for the JSON that its engine does not enforce."""
    return replace(candidate, means=replace(candidate.means, enforcer=Enforcer.PROMPT))


def note(report: AttemptReport, seen: Observation, prompt_tokens: int, now_s: float, roll: float) -> None:
    """What an attempt that is over tells of its endpoint. `roll` in [0, 1) jitters how long a sick one rests."""
    if report.first_content_s is not None and not report.plain:  # a whole answer tells of its length
        seen.first_token(report.first_content_s - report.started_s, prompt_tokens, now_s)
    if report.ended_s is None or stale(report):
        seen.leave()
    elif report.failure is not None:
        seen.fail(report.failure, now_s, roll)
    else:
        token_s = None
        if report.first_content_s is not None and report.reading.pieces > 1:
            token_s = (report.ended_s - report.first_content_s) / (report.reading.pieces - 1)
        seen.succeed(now_s, token_s)


def stale(report: AttemptReport) -> bool:
    """Whether the server had closed an idle connection, which tells nothing of the endpoint."""
    return report.failure is not None and report.failure.kind is FailureKind.NO_RESPONSE and not report.fresh
