"""One request, top to bottom: `relay` reads like the list in ARCHITECTURE.md."""

import asyncio
import errno
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from ledger.billing import Bill, Tokens
from ledger.errors import LedgerError
from ledger.journal.pins import Pin, encode_pins
from ledger.journal.writes import Answer, Claim, Hold, HoldOutcome, Settlement
from ledger.keys import KeyRecord
from ledger.money import format_usd
from providers.adapter import TOKENS_A_MESSAGE
from providers.chat_request import text_content
from providers.events import Failure, FailureKind
from providers.formats.prompt import ask_again
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from providers.means import Enforcer, Means
from providers.seam import Seam
from proxy.entry.api_errors import ApiError
from proxy.entry.authentication import authenticate
from proxy.entry.body import read_body
from proxy.exchange.attempt import Attempt, Outlet
from proxy.exchange.continuation import (
    generated_tokens,
    may_go_on,
    our_limits,
    seam_after,
    thought_budget_tokens,
)
from proxy.exchange.gateway import Gateway
from proxy.exchange.idempotency import KeptAnswer, Recording, claim_of, find_answer, in_use, kept_headers, replay, seal
from proxy.exchange.json_outlet import JsonOutlet, Nowhere
from proxy.exchange.outlets import PlainOutlet, StreamOutlet
from proxy.exchange.planning import (
    LEAST_OUTPUT_TOKENS,
    Ceiling,
    Plan,
    ceiling,
    not_enough,
    output_tokens,
    plan,
    with_margin,
)
from proxy.exchange.policy import Action, Situation, decide, refuses_schema, verdict
from proxy.exchange.schemas import TOO_COSTLY, check_format
from proxy.exchange.settlement import attempts_shown, believable, millis, prompt_tokens, settle_bill, usage_shown
from proxy.routing.route import Candidate
from proxy.surfaces.surface import Identity, Surface, SurfaceRequest

EXPIRY_SLACK_S = 60.0
CHECKPOINT_S = 1.0
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RETRY_AFTER_S = 1.0
DONE_GRACE_S = 0.5  # some servers send the end of the body apart from `[DONE]`
SLOWEST_TOKEN_S = 0.1  # what comes whole may take so long a token


async def relay(gateway: Gateway, surface: Surface, request: web.Request, request_id: UUID) -> web.StreamResponse:
    """Answer a request of any surface. Raises ApiError where nothing has been sent yet."""
    key = await authenticate(request.headers, gateway.store, gateway.secret_key, gateway.now())
    body = await read_body(request, gateway.settings.limits)
    call = surface.read(body, gateway.suffix_of)
    claim = claim_of(request.headers, key.key_id, surface.name, body, gateway.secret_key)
    with gateway.admission.admit(key, call.chat.prompt_bytes // 4, asyncio.get_running_loop().time()) as limits:
        if claim is not None and (kept := await find_answer(gateway.store, claim, gateway.secret_key)):
            return await replay(request, kept, gateway.settings.limits.slow_client_timeout_s)
        await check_format(gateway.schemas, call, surface)
        planned = await plan(gateway, key, call)
        headers = limits.headers() if limits else {}
        exchange = Exchange(gateway, surface, request, request_id, key, call, planned, headers, claim)
        gateway.running.add(exchange)
        try:
            await exchange.hold()
            await exchange.attempt()
            await exchange.settle()
            return await exchange.answer()
        except BaseException as error:
            # The client left (we are cancelled), or something broke: the hold is resolved all the same.
            left = isinstance(error, asyncio.CancelledError | ConnectionError) and not gateway.draining
            gateway.adopt(exchange.wind_up(client_left=left))
            raise
        finally:
            gateway.running.discard(exchange)


class Exchange:
    """The whole client request with all its attempts."""

    __slots__ = (
        "attempts",
        "bill",
        "call",
        "checkpointed_s",
        "claim",
        "congested_s",
        "ending",
        "error",
        "first_part",
        "first_token_timeout_s",
        "gateway",
        "headers",
        "hold_pusd",
        "hold_sent",
        "id",
        "key",
        "max_tokens",
        "outlet",
        "plan",
        "request",
        "settle_sent",
        "shaping",
        "started_s",
        "surface",
        "unenforced",
    )

    def __init__(
        self,
        gateway: Gateway,
        surface: Surface,
        request: web.Request,
        request_id: UUID,
        key: KeyRecord,
        call: SurfaceRequest,
        planned: Plan,
        headers: dict[str, str],
        claim: Claim | None,
    ) -> None:
        self.gateway, self.surface, self.request = gateway, surface, request
        self.id, self.key, self.call, self.plan = request_id, key, call, planned
        self.started_s = asyncio.get_running_loop().time()
        self.attempts: list[Attempt] = []
        self.first_part = 0
        self.shaping: JsonOutlet | None = None
        self.unenforced: set[str] = set()  # endpoints that refused the schema
        self.headers, self.claim = headers, claim
        self.hold_pusd = self.max_tokens = 0
        self.hold_sent = self.settle_sent = False
        self.error: ApiError | None = None
        self.bill: Bill | None = None
        self.ending: bytes | None = None
        self.checkpointed_s = self.started_s
        self.congested_s: float | None = None
        self.first_token_timeout_s = 0.0
        self.outlet = self._make_outlet()
        if call.ignored:
            headers["x-caduceus-ignored"] = ", ".join(call.ignored)

    def _make_outlet(self) -> StreamOutlet | PlainOutlet:
        chat = self.call.chat
        shape = "none" if chat.reasoning.exclude else self.call.reasoning_format or self.key.reasoning_format
        created, model = int(self.gateway.now().timestamp()), self.gateway.settings.model
        identity = Identity(self.id, created, model, shape, self.call.echoed)
        if chat.stream:
            limit_bytes = self.gateway.settings.limits.idempotent_answer_bytes
            recording = None if self.claim is None else Recording(limit_bytes)
            return StreamOutlet(self.request, self.surface.stream(identity), recording)
        return PlainOutlet(self.surface.message(identity))

    # Hold

    async def hold(self) -> None:
        """Reserve the ceiling before any provider is contacted. 402 where the credit does not reach."""
        candidates, wanted = self.plan.route.candidates, self.call.chat.max_tokens
        limits = self.gateway.settings.limits
        top = ceiling(candidates, self.call, self.plan.prompt_most)
        most = max(one.endpoint.max_output_tokens for one in candidates)
        tokens = min(wanted or limits.default_output_tokens, most)
        outcome = await self._hold(top, tokens)
        if outcome.accepted:
            return
        # Now the exact length decides between yes and 402.
        exact = await asyncio.to_thread(prompt_tokens, self.call.chat)
        top = ceiling(candidates, self.call, min(self.plan.prompt_most, with_margin(exact)))
        affordable = top.affordable_tokens(outcome.available_pusd)
        least = tokens if wanted else LEAST_OUTPUT_TOKENS
        if affordable < least:
            raise not_enough(outcome, top.amount_pusd(least), affordable)
        tokens = min(tokens, affordable)
        outcome = await self._hold(top, tokens)
        if not outcome.accepted:
            raise not_enough(outcome, top.amount_pusd(tokens), affordable)

    async def _hold(self, top: Ceiling, tokens: int) -> HoldOutcome:
        amount_pusd = top.amount_pusd(tokens)
        self.hold_pusd, self.max_tokens = amount_pusd, tokens
        try:
            outcome = await self.gateway.store.hold(
                Hold(
                    request_id=self.id,
                    account_id=self.key.account_id,
                    tenant_id=self.key.tenant_id,
                    key_id=self.key.key_id,
                    amount_pusd=amount_pusd,
                    credit_limit_pusd=self.key.credit_limit_pusd,
                    expires_after_s=self.gateway.settings.limits.total_timeout_s + EXPIRY_SLACK_S,
                    pins=pins(self.plan.route.candidates),
                    claim=self.claim,
                )
            )
        except LedgerError as error:
            raise ApiError("ledger_unavailable", "the ledger cannot be reached; try again", None, 5.0) from error
        if outcome.reason == "claimed":  # since we looked; its own retry learns what became of it
            raise in_use()
        self.hold_sent = outcome.accepted
        self.headers["x-caduceus-hold"] = format_usd(amount_pusd)
        return outcome

    # Attempt

    async def attempt(self) -> None:
        """Try the endpoints of the route in order until one has answered; `error` says if none did."""
        remaining = list(self.plan.route.candidates)
        failures: list[tuple[Candidate, Failure]] = []
        self.gateway.budget.deposit(self.plan.prompt_tokens, self.started_s)
        candidate, fresh, seam = remaining.pop(0), False, None
        while True:
            tried = await self._try(candidate, fresh=fresh, seam=seam)
            if tried.failure is None:
                if not tried.cut_short:
                    await self._see_to_format()
                    return
                fresh, seam = False, seam_after(self.parts, close_thought=True)
                continue
            if self._cannot_enforce(tried):
                self.unenforced.add(candidate.endpoint.name)
                fresh = False
                continue
            delivered = any(part.delivered for part in self.parts)
            going_on = self._going_on(remaining)
            action = decide(tried.failure, Situation(delivered, bool(going_on), tried.fresh, remaining, candidate))
            if action is Action.RETRY_HERE:
                fresh = True
                continue
            failures.append((candidate, tried.failure))
            overdue = self._now_s() - self.started_s > self.gateway.settings.limits.total_timeout_s
            if action is Action.GIVE_UP or overdue or not self.gateway.budget.withdraw(self.plan.prompt_tokens):
                self.error = verdict(failures, delivered=delivered)
                if delivered:
                    tried.release()
                return
            fresh = False
            if action is Action.CONTINUE:
                candidate, seam = going_on[0], seam_after(self.parts, close_thought=self._thought())
                remaining.remove(candidate)
            else:
                candidate, seam = remaining.pop(0), None
                self._begin_again()

    @property
    def parts(self) -> list[Attempt]:
        """The attempts that the answer is made of so far."""
        return self.attempts[self.first_part :]

    def _going_on(self, remaining: list[Candidate]) -> list[Candidate]:
        """Those that could continue what was delivered."""
        if not self.key.continuation:
            return []
        return [one for one in remaining if may_go_on(self.call.chat, self.parts, one)]

    def _begin_again(self) -> None:
        self.first_part = len(self.attempts)
        self.shaping = None
        if isinstance(self.outlet, PlainOutlet):  # what it has of the answer that broke off nobody will see
            self.outlet = self._make_outlet()

    async def _try(self, candidate: Candidate, *, fresh: bool, seam: Seam | None) -> Attempt:
        request, endpoint = self.call.chat, candidate.endpoint
        streamed = request.stream or endpoint.stream_plain
        room = max(output_tokens(endpoint, self.max_tokens, self.plan) - generated_tokens(self.parts), 1)
        budget = thought_budget_tokens(request, endpoint, room) if seam is None else None
        most = room if budget is None else min(budget, room)
        means = self._means(candidate)
        thinking = seam is None or seam.inside_thought
        apart = (
            means.enforcer is Enforcer.ENGINE and bool(request.reasoning.enabled) and thinking and not self._thought()
        )
        emulation = self.parts[-1].emulation if seam is not None else None  # it may have read half of something
        if emulation is None:
            emulation = endpoint.adapter.emulation(request, means, seed=self.id.hex)
        tried = Attempt(
            candidate,
            self._outlet_before(candidate),
            plain=not streamed,
            seam=(seam := seam or Seam("", None)) if apart else seam,
            our_limits=our_limits(cut=most < room, apart=apart),
            emulation=emulation,
        )
        self.outlet.surface.provider = endpoint.name
        body = endpoint.adapter.encode(
            request, endpoint.target, means, max_tokens=most, stream=streamed, seam=seam, thought_only=apart
        )
        await self._run(tried, body, fresh=fresh)
        return tried

    def _thought(self) -> bool:
        """Whether a part of this answer was the thought before it."""
        return any(part.cut_short for part in self.parts)

    def _outlet_before(self, candidate: Candidate) -> Outlet:
        """Where an attempt writes to: past what looks after the JSON that is wanted, where nobody else does."""
        if self._means(candidate).enforcer in (None, Enforcer.ENGINE):
            return self.outlet
        if self.shaping is None:
            wanted = self.call.chat.format
            assert wanted is not None
            self.shaping = JsonOutlet(self.outlet, wanted)
        return self.shaping

    def _means(self, candidate: Candidate) -> Means:
        refused = candidate.endpoint.name in self.unenforced
        return replace(candidate.means, enforcer=Enforcer.PROMPT) if refused else candidate.means

    def _cannot_enforce(self, tried: Attempt) -> bool:
        """Whether the endpoint refused a schema that is one: then it is asked in its prompt."""
        asked = self._means(tried.candidate).enforcer in (Enforcer.ENGINE, Enforcer.PROVIDER)
        return asked and refuses_schema(tried.failure) and self.gateway.budget.withdraw(self.plan.prompt_tokens)

    async def _run(self, tried: Attempt, body: bytes, *, fresh: bool) -> None:
        self.attempts.append(tried)
        observation = self.gateway.observations[tried.candidate.endpoint.name]
        self.first_token_timeout_s = self._patience_s(observation.expected_first_token_s(self.plan.prompt_tokens))
        if tried.plain:
            self.first_token_timeout_s += self.max_tokens * SLOWEST_TOKEN_S
        observation.begin()
        try:
            await self._ask(tried, body, fresh=fresh)
            await self._follow(tried)
        finally:
            self._observe(tried)

    async def _see_to_format(self) -> None:
        """Check what has to be JSON where no engine held it to that, and have it made good once where it can be."""
        shaping, wanted = self.shaping, self.call.chat.format
        if shaping is None or wanted is None:
            return
        texts = shaping.close()
        problems = {}
        for index, text in texts.items():
            if problem := await self.gateway.schemas.problem(wanted, text):
                problems[index] = problem
        if problems and shaping.repairable and TOO_COSTLY not in problems.values():
            ((index, problem),) = problems.items()
            if (better := await self._repair(wanted, texts[index], problem)) is not None:
                texts[index], problems = better, {}
        shaping.conclude(texts, problems)

    async def _repair(self, wanted: JsonFormat, text: str, problem: Problem) -> str | None:
        """The answer again, from an endpoint that has seen what was wrong with it; None where it is no better."""
        candidate = self.attempts[-1].candidate
        endpoint = candidate.endpoint
        request = ask_again(self.call.chat, text, problem)
        added = "".join(text_content(message["content"]) for message in request.messages[-2:])
        room = endpoint.context_tokens - self.plan.prompt_most - len(added.encode()) - 2 * TOKENS_A_MESSAGE
        room = min(output_tokens(endpoint, self.max_tokens, self.plan), room)
        overdue = self._now_s() - self.started_s > self.gateway.settings.limits.total_timeout_s
        if room < generated_tokens(self.parts) or overdue or not self.gateway.budget.withdraw(self.plan.prompt_tokens):
            return None
        outlet = JsonOutlet(Nowhere(), wanted)
        tried = Attempt(candidate, outlet, plain=not endpoint.stream_plain, added=added, repairs=True)
        means = endpoint.adapter.means(request, endpoint.target)
        body = endpoint.adapter.encode(request, endpoint.target, means, max_tokens=room, stream=endpoint.stream_plain)
        await self._run(tried, body, fresh=True)
        better = outlet.close().get(0)
        if tried.failure is not None or tried.reader.finish_reason != "stop" or better is None:
            return None
        return better if await self.gateway.schemas.problem(wanted, better) is None else None

    async def _ask(self, tried: Attempt, body: bytes, *, fresh: bool) -> None:
        origin = self.gateway.origins[tried.candidate.endpoint.name]
        try:
            connection = await self.gateway.upstream.connect(origin, fresh=fresh)
        except (OSError, TimeoutError) as error:
            if error.errno in EXHAUSTED:
                tried.end(Failure(FailureKind.OURS, f"no connection is to be had here: {error}", None, RETRY_AFTER_S))
            else:
                tried.end(Failure(FailureKind.CONNECT, f"{type(error).__name__}: {error}"))
            return
        tried.fresh = connection.uses == 0
        tried.connection = connection
        path = tried.candidate.endpoint.adapter.path(self.call.chat)
        connection.send(origin.post(path, body, str(self.id)), tried)

    async def _follow(self, tried: Attempt) -> None:
        """Until the attempt has ended: open the answer when there is something to say, keep pace with the client."""
        while not tried.ended:
            await tried.wake()
            outlet = self.outlet
            if isinstance(outlet, PlainOutlet):
                continue
            if outlet.wanted and not outlet.opened:
                await outlet.open(self._headers())
            if outlet.congested and tried.connection is not None and not tried.ended:
                tried.connection.pause()
                self.congested_s = self._now_s()
                await outlet.drain()
                self.congested_s = None
                tried.progress_s = self._now_s()
                tried.connection.resume()

    def _observe(self, tried: Attempt) -> None:
        observation = self.gateway.observations[tried.candidate.endpoint.name]
        now_s = self._now_s()
        if tried.first_content_s is not None and not tried.plain:  # a whole answer tells of its length
            observation.first_token(tried.first_content_s - tried.started_s, self.plan.prompt_tokens, now_s)
        if not tried.ended or tried.stale:
            observation.leave()
        elif tried.failure is None:
            token_s = None
            if tried.first_content_s is not None and tried.pieces > 1 and tried.ended_s is not None:
                token_s = (tried.ended_s - tried.first_content_s) / (tried.pieces - 1)
            observation.succeed(now_s, token_s)
        else:
            observation.fail(tried.failure, now_s, self.gateway.roll.random())

    def _patience_s(self, expected_s: float | None) -> float:
        """How long to wait for the first token: what the settings allow, less where the endpoint is known as quick."""
        limits = self.gateway.settings.limits
        allowed_s = limits.first_token_timeout_s
        allowed_s += limits.first_token_timeout_per_1k_prompt_s * self.plan.prompt_tokens / 1_000
        return allowed_s if expected_s is None else min(allowed_s, max(5.0, 10 * expected_s))

    def tick(self, now_s: float) -> None:
        """The ticker's visit, some times a second: has something taken too long?"""
        limits, tried = self.gateway.settings.limits, self.attempts[-1] if self.attempts else None
        if self.congested_s is not None:
            if now_s - self.congested_s > limits.slow_client_timeout_s and self.request.transport is not None:
                self.request.transport.abort()
            return
        if tried is None or tried.ended or tried.connection is None:  # connecting has a timeout of its own
            return
        silent_s = tried.silent_s(now_s)
        if now_s - self.started_s > limits.total_timeout_s:
            tried.end(Failure(FailureKind.TIMEOUT, "the total timeout is over"))
        elif tried.reader.done and silent_s > DONE_GRACE_S:
            tried.finish()
        elif not tried.committed and now_s - tried.started_s > self.first_token_timeout_s:
            tried.end(Failure(FailureKind.TIMEOUT, f"no content within {self.first_token_timeout_s:.1f} s"))
        elif tried.committed and silent_s > limits.idle_timeout_s:
            tried.end(Failure(FailureKind.STALLED, f"nothing came for {limits.idle_timeout_s:g} s"))
        elif isinstance(self.outlet, StreamOutlet) and self.outlet.keep_alive(now_s, limits.keepalive_comment_s):
            tried.call_attention()
        if tried.committed and not tried.repairs and now_s - self.checkpointed_s >= CHECKPOINT_S:
            self.checkpointed_s = now_s
            self._checkpoint(tried)

    def _checkpoint(self, tried: Attempt) -> None:
        usage = tried.reader.usage
        if usage is None or not believable(usage, tried, self.call.chat):
            tokens = Tokens(self.plan.prompt_tokens, completion=tried.pieces)
        else:
            tokens = Tokens(usage.prompt_tokens, completion=usage.completion_tokens)
        self.gateway.store.checkpoint(self.id, tried.candidate.endpoint.name, tokens)

    # Settle

    async def settle(self, *, client_left: bool = False) -> None:
        """Post the charge and the costs and release the rest; returns when that is durable."""
        if self.settle_sent:
            return
        self.settle_sent = True
        try:
            if self.attempts:
                self.bill = await settle_bill(self.attempts, self.call.chat, self.hold_pusd, client_left=client_left)
            answer = None if self.claim is None else self._kept(self.claim, client_left)
            await self.gateway.store.settle(self._settlement(client_left, answer))
        except LedgerError:
            self.error = ApiError("ledger_unavailable", "the charge could not be recorded", None, 5.0)
        except BaseException:
            self.settle_sent = False  # it may not have got as far as the ledger; a second time does no harm there
            raise
        if self.bill is not None:
            self.gateway.admission.spend(self.key, self.bill.tokens.completion)

    def _kept(self, claim: Claim, client_left: bool) -> Answer:
        """What a claim comes to: the whole answer, if it is there, though the client may have left before its end."""
        last = self.attempts[-1] if self.attempts else None
        if self.error is not None or last is None or (client_left and (last.cut_short or not answered(last))):
            return Answer(whole=False)
        if isinstance(self.outlet, PlainOutlet):
            headers, body = self._plain_headers(), self._word_ending()
            kept = kept_headers(headers, "application/json")
            whole = body if len(body) <= self.gateway.settings.limits.idempotent_answer_bytes else None
        else:
            self.outlet.flush()
            assert self.outlet.recording is not None
            kept = kept_headers(self._headers(), "text/event-stream")
            whole = self.outlet.recording.whole(self._word_ending())
        if whole is None:
            return Answer(whole=True)
        return Answer(whole=True, sealed=seal(KeptAnswer(kept, whole), claim, self.id, self.gateway.secret_key))

    def _settlement(self, client_left: bool, answer: Answer | None) -> Settlement:
        last = next((one for one in reversed(self.attempts) if not one.repairs), None)
        delivering = next((one for one in self.attempts if one.delivered), last)
        endpoint = delivering.candidate.endpoint if delivering else None
        state = "completed"
        if client_left:
            state = "client_left"
        elif self.error is not None:
            state = "cut" if last is not None and last.delivered else "failed"
        return Settlement(
            request_id=self.id,
            account_id=self.key.account_id,
            tenant_id=self.key.tenant_id,
            key_id=self.key.key_id,
            hold_pusd=self.hold_pusd,
            bill=self.bill,
            state=state,
            endpoint=endpoint.name if endpoint else None,
            surface=self.surface.name,
            model=self.gateway.settings.model,
            region=endpoint.region if endpoint else None,
            attempts=orjson.dumps(attempts_shown(self.attempts)),
            ttft_ms=millis(self.started_s, delivering.first_content_s) if delivering else None,
            total_ms=millis(self.started_s, self._now_s()) or 0,
            upstream_contacted=any(one.connection is not None for one in self.attempts),
            user=self.call.chat.user,
            metadata=self.call.chat.metadata or None,
            answer=answer,
        )

    async def wind_up(self, *, client_left: bool) -> None:
        """The client left: stop the provider, or let it finish where stopping does not stop its bill. Or we failed."""
        if self.settle_sent or not self.hold_sent:
            return
        tried = self.attempts[-1] if self.attempts else None
        if not client_left:
            self.error = ApiError("internal_error", "the answer was given up")
            if tried is not None:
                tried.end(Failure(FailureKind.CUT, "given up here"))
        elif tried is not None and not tried.ended and tried.connection is not None:
            if not tried.candidate.endpoint.adapter.dialect.cancel_stops_billing:
                tried.connection.resume()
                await self._drain(tried)
            tried.leave()
        await self.settle(client_left=client_left)

    async def _drain(self, tried: Attempt) -> None:
        try:
            async with asyncio.timeout(self.gateway.settings.limits.drain_upstream_s):
                while not tried.ended:
                    await tried.wake()
        except TimeoutError:
            pass

    # Answer

    async def answer(self) -> web.StreamResponse:
        """The end of the answer, after its charge is durable."""
        self.congested_s = self._now_s()  # from here on only the client can keep us waiting
        outlet = self.outlet
        if self.error is not None:
            if route := self._explanation():
                self.error.details = {**self.error.details, "route": route}
            if isinstance(outlet, PlainOutlet) or not outlet.opened:
                raise self.error
            return await outlet.close(outlet.surface.error(self.error, self._usage()))
        if isinstance(outlet, PlainOutlet):
            return await outlet.finish(self.request, self._plain_headers(), self._word_ending())
        if not outlet.opened:
            await outlet.open(self._headers())
        return await outlet.close(self._word_ending())

    def _word_ending(self) -> bytes:
        """The end of a stream, or the whole of a plain answer; the surface words it once."""
        if self.ending is None:
            usage, route = self._usage(), self._explanation()
            if isinstance(self.outlet, PlainOutlet):
                self.ending = self.outlet.surface.body(usage, route)
            else:
                show_usage = self.call.chat.include_usage or self.key.stream_usage == "always"
                self.ending = self.outlet.surface.finish(usage, route, show_usage=show_usage)
        return self.ending

    def _usage(self) -> dict[str, Any]:
        return usage_shown(self.bill) if self.bill is not None else {}

    def _plain_headers(self) -> dict[str, str]:
        return {**self._headers(), "x-caduceus-cost": format_usd(self.bill.charge_pusd) if self.bill else "0.00"}

    def _headers(self) -> dict[str, str]:
        """As of now: which endpoint, after how many attempts, and whose time it took."""
        last = self.attempts[-1]
        endpoint = last.candidate.endpoint
        upstream_ms = sum(millis(one.started_s, one.first_content_s or one.ended_s) or 0 for one in self.attempts)
        ours_ms = max((millis(self.started_s, self._now_s()) or 0) - upstream_ms, 0)
        headers = {
            **self.headers,
            "x-request-id": str(self.id),
            "x-caduceus-endpoint": endpoint.name,
            "x-caduceus-attempts": str(len(self.attempts)),
            "server-timing": f"gateway;dur={ours_ms}, upstream;dur={upstream_ms}",
            "cache-control": "no-store",
        }
        if endpoint.region:
            headers["x-caduceus-region"] = endpoint.region
        return headers

    def _explanation(self) -> dict[str, Any] | None:
        """Why it went where it went, for who asked."""
        if self.request.headers.get("x-caduceus-explain") != "1":
            return None
        return {**self.plan.route.explain(), "attempts": attempts_shown(self.attempts)}

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def answered(attempt: Attempt) -> bool:
    """All of it came."""
    return attempt.ended and attempt.failure is None and (attempt.reader.done or attempt.reader.finished)


def pins(candidates: tuple[Candidate, ...]) -> bytes:
    """The prices this request was admitted with: what a sweep after a crash settles by."""
    return encode_pins(
        {one.endpoint.name: Pin(one.endpoint.provider, one.endpoint.sandbox, one.sell, one.buy) for one in candidates}
    )
