"""One request, top to bottom: `Relay.answer` reads like the list in ARCHITECTURE.md."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from aiohttp import web

from ledger.billing import Bill
from ledger.errors import LedgerError
from ledger.journal.store import Store
from ledger.journal.writes import Answer
from proxy.config import LimitSettings
from proxy.entry.admission import Admission
from proxy.entry.api_errors import ApiError
from proxy.entry.authentication import Keyring
from proxy.entry.body import read_body
from proxy.exchange.formats.schemas import check_format
from proxy.exchange.meter import AttemptReport
from proxy.exchange.planning import Planner, PromptLength
from proxy.exchange.pursuit import Environment, Pursuit
from proxy.exchange.reply.idempotency import Recording, claim_of, find_answer, replay, seal
from proxy.exchange.reply.outlets import ClientOutlet, PlainOutlet, StreamOutlet
from proxy.exchange.reply.reply import Reply
from proxy.exchange.reservation import Ended, Order, Reservation
from proxy.exchange.running import Running
from proxy.routing.catalogue import Catalogue
from proxy.routing.route import Route
from proxy.surfaces.suffixes import suffix_of
from proxy.surfaces.surface import Identity, Surface, SurfaceRequest

EXPIRY_SLACK_S = 60.0
CHECKPOINT_S = 1.0


@dataclass(frozen=True, slots=True)
class Relay:
    """Answers requests of every surface. Made once a process, by the composition root."""

    keyring: Keyring
    admission: Admission
    catalogue: Catalogue
    planner: Planner
    store: Store
    environment: Environment
    running: Running
    limits: LimitSettings
    secret_key: bytes

    async def answer(self, surface: Surface, request: web.Request, request_id: UUID) -> web.StreamResponse:
        """Raises ApiError where nothing has been sent yet."""
        key = await self.keyring.authenticate(request.headers)
        body = await read_body(request, self.limits)
        asked = surface.read(body, partial(suffix_of, names=self.catalogue.names))
        claim = claim_of(request.headers, key.key_id, surface.name, body, self.secret_key)
        now_s = asyncio.get_running_loop().time()
        with self.admission.admit(key, asked.chat.prompt_bytes // 4, now_s) as allowed:
            if claim is not None and (kept := await find_answer(self.store, claim, self.secret_key)):
                return await replay(request, kept, self.limits.slow_client_timeout_s)
            await check_format(self.environment.schemas, asked, surface, key.tenant_id)
            route, prompt = await self.planner.plan(key, asked)
            order = Order(request_id, key, surface.name, self.catalogue.model, asked.chat, claim)
            headers = allowed.headers() if allowed else {}
            exchange = self._exchange(surface, request, order, asked, route, prompt, headers)
            self.running.add(exchange)
            try:
                await exchange.hold()
                await exchange.attempt()
                await exchange.settle()
                return await exchange.finish()
            except BaseException as error:
                # The client left (we are cancelled), or something broke: the hold is resolved all the same.
                left = isinstance(error, asyncio.CancelledError | ConnectionError) and not self.running.draining
                self.running.adopt(exchange.wind_up(client_left=left))
                raise
            finally:
                self.running.remove(exchange)

    def _exchange(
        self,
        surface: Surface,
        request: web.Request,
        order: Order,
        asked: SurfaceRequest,
        route: Route,
        prompt: PromptLength,
        headers: dict[str, str],
    ) -> "Exchange":
        clock = self.environment.clock
        if asked.ignored:
            headers["x-caduceus-ignored"] = ", ".join(asked.ignored)
        explained = route if request.headers.get("x-caduceus-explain") == "1" else None
        reservation = Reservation(
            self.store,
            order,
            route,
            prompt,
            default_output_tokens=self.limits.default_output_tokens,
            expires_after_s=self.limits.total_timeout_s + EXPIRY_SLACK_S,
            clock=clock,
        )
        started_s = clock()
        outlet = self._outlet(surface, request, order, asked)
        reply = Reply(outlet, order.request_id, headers, explained=explained, started_s=started_s, clock=clock)
        pursuit = Pursuit(
            order.chat,
            route,
            prompt,
            reply,
            self.environment,
            request_id=order.request_id,
            tenant_id=order.key.tenant_id,
            continuation=order.key.continuation,
            started_s=started_s,
        )
        return Exchange(
            order,
            reservation,
            pursuit,
            reply,
            limits=self.limits,
            admission=self.admission,
            secret_key=self.secret_key,
            started_s=started_s,
            clock=clock,
        )

    def _outlet(self, surface: Surface, request: web.Request, order: Order, asked: SurfaceRequest) -> ClientOutlet:
        chat, key = asked.chat, order.key
        shape = "none" if chat.reasoning.exclude else asked.reasoning_format or key.reasoning_format
        created = int(self.catalogue.now().timestamp())
        identity = Identity(order.request_id, created, order.model, shape, asked.echoed)
        if not chat.stream:
            return PlainOutlet(request, partial(surface.message, identity))
        return StreamOutlet(
            request,
            surface.stream(identity),
            clock=self.environment.clock,
            show_usage=chat.include_usage or key.stream_usage == "always",
            recording=None if order.claim is None else Recording(self.limits.idempotent_answer_bytes),
        )


class Exchange:
    """One request with its parts: the reservation of its money, the pursuit of its answer, the reply to its client."""

    __slots__ = (
        "_admission",
        "_checkpointed_s",
        "_clock",
        "_error",
        "_limits",
        "_order",
        "_secret_key",
        "_started_s",
        "pursuit",
        "reply",
        "reservation",
    )

    def __init__(
        self,
        order: Order,
        reservation: Reservation,
        pursuit: Pursuit,
        reply: Reply,
        *,
        limits: LimitSettings,
        admission: Admission,
        secret_key: bytes,
        started_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.reservation, self.pursuit, self.reply = reservation, pursuit, reply
        self._order, self._limits, self._admission, self._secret_key = order, limits, admission, secret_key
        self._started_s = self._checkpointed_s = started_s
        self._clock = clock
        self._error: ApiError | None = None

    async def hold(self) -> None:
        """Reserve the ceiling before any endpoint is asked. Raises ApiError."""
        await self.reservation.hold()
        self.reply.announce_hold(self.reservation.amount_pusd)

    async def attempt(self) -> None:
        """Have one endpoint after another asked until one has answered, or none is left."""
        self._error = await self.pursuit.run(self.reservation.output_tokens)

    async def settle(self, *, client_left: bool = False) -> None:
        """Post the charge and the costs and release the rest; returns when that is durable, or has failed."""
        reports = self.pursuit.reports()
        ended = Ended(self._started_s, client_left, failed=self._error is not None)
        keep = partial(self._answer_of_claim, reports, client_left)
        try:
            await self.reservation.settle(reports, ended, keep)
        except LedgerError:
            self._error = ApiError("ledger_unavailable", "the charge could not be recorded", None, 5.0)
        if self.reservation.bill is not None:
            self._admission.spend(self._order.key, self.reservation.bill.tokens.completion)

    async def finish(self) -> web.StreamResponse:
        """The end of the answer, after its charge is durable."""
        reports, bill = self.pursuit.reports(), self.reservation.bill
        if self._error is not None:
            return await self.reply.fail(self._error, reports, bill)
        return await self.reply.end(reports, bill)

    async def wind_up(self, *, client_left: bool) -> None:
        """Resolve the hold of a request whose client left, or in which something broke here."""
        if not self.reservation.unsettled:
            return
        if client_left:
            await self.pursuit.leave()
        else:
            self._error = ApiError("internal_error", "the answer was given up")
            self.pursuit.give_up()
        await self.settle(client_left=client_left)

    def tick(self, now_s: float) -> None:
        """The ticker's visit, some times a second: end what takes too long, note how far the answer has come."""
        if self.reply.waits_for_client:
            self.reply.tick(now_s, self._limits.slow_client_timeout_s)
            return
        self.pursuit.tick(now_s)
        if now_s - self._checkpointed_s >= CHECKPOINT_S and (report := self.pursuit.delivering()) is not None:
            self._checkpointed_s = now_s
            self.reservation.checkpoint(report)

    def _answer_of_claim(self, reports: Sequence[AttemptReport], client_left: bool, bill: Bill | None) -> Answer | None:
        """What is kept under the Idempotency-Key: the whole answer if it is there, though the client may have left."""
        claim = self._order.claim
        if claim is None:
            return None
        if self._error is not None or not reports or (client_left and not self.pursuit.whole):
            return Answer(whole=False)
        kept = self.reply.keep(reports, bill, self._limits.idempotent_answer_bytes)
        if kept is None:
            return Answer(whole=True)
        return Answer(whole=True, sealed=seal(kept, claim, self._order.request_id, self._secret_key))
