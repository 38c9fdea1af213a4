"""What a client is sent around the deltas of an answer: the head of the response, its end, or why it failed."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from aiohttp import web

from ledger.billing import Bill
from ledger.money import format_usd
from proxy.entry.api_errors import ApiError
from proxy.exchange.meter import AttemptReport
from proxy.exchange.reply.idempotency import KeptAnswer, kept_headers
from proxy.exchange.reply.outlets import ClientOutlet
from proxy.exchange.settlement import answer_headers, attempts_shown, usage_shown
from proxy.routing.route import Route


class Reply:
    """`begin_attempt`, `open` and `keep_pace` while attempts run, then `end` or `fail`.

    Streamed and plain answers differ in their outlet alone.
    """

    __slots__ = (
        "_clock",
        "_ending",
        "_explained",
        "_headers",
        "_request_id",
        "_started_s",
        "_waiting_since_s",
        "outlet",
    )

    def __init__(
        self,
        outlet: ClientOutlet,
        request_id: UUID,
        headers: dict[str, str],
        *,
        explained: Route | None,
        started_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`headers` are those known before any endpoint is asked. `explained`: the route, for who asked why."""
        self.outlet = outlet
        self._request_id = request_id
        self._headers = headers
        self._explained = explained
        self._clock = clock
        self._started_s = started_s
        self._waiting_since_s: float | None = None
        self._ending: bytes | None = None

    def announce_hold(self, amount_pusd: int) -> None:
        """Name the ceiling of the charge in the response's headers."""
        self._headers["x-caduceus-hold"] = format_usd(amount_pusd)

    # While attempts run

    def begin_attempt(self, endpoint: str) -> None:
        self.outlet.name_provider(endpoint)

    def begin_again(self) -> None:
        """What came of the answer so far is not part of it: it begins again elsewhere."""
        self.outlet.restart()

    @property
    def needs_opening(self) -> bool:
        return self.outlet.wanted

    @property
    def congested(self) -> bool:
        return self.outlet.congested

    async def open(self, reports: Sequence[AttemptReport]) -> None:
        """Send the head of the response, as of now, and what waits for it."""
        await self.outlet.open(self._response_headers(reports))

    async def keep_pace(self) -> None:
        """Wait until the client has read most of what it was sent; `tick` drops one that takes too long."""
        self._waiting_since_s = self._clock()
        await self.outlet.drain()
        self._waiting_since_s = None

    @property
    def waits_for_client(self) -> bool:
        return self._waiting_since_s is not None

    def tick(self, now_s: float, slow_client_timeout_s: float) -> None:
        """Drop a client that has kept us waiting for too long."""
        if self._waiting_since_s is not None and now_s - self._waiting_since_s > slow_client_timeout_s:
            self.outlet.abort()

    def keep_alive(self, now_s: float, interval_s: float) -> bool:
        """Send a comment after so long a silence. True when the owner must look after the outlet."""
        return self.outlet.keep_alive(now_s, interval_s)

    # The end

    def keep(self, reports: Sequence[AttemptReport], bill: Bill | None, limit_bytes: int) -> KeptAnswer | None:
        """The whole answer as it is about to be sent; None where it is larger than `limit_bytes`."""
        body = self.outlet.copy(self._word_ending(reports, bill), limit_bytes)
        if body is None:
            return None
        return KeptAnswer(kept_headers(self._final_headers(reports, bill), self.outlet.content_type), body)

    async def end(self, reports: Sequence[AttemptReport], bill: Bill | None) -> web.StreamResponse:
        """Send the end of the answer; its charge is durable."""
        self._waiting_since_s = self._clock()  # from here on only the client can keep us waiting
        return await self.outlet.close(self._final_headers(reports, bill), self._word_ending(reports, bill))

    async def fail(self, error: ApiError, reports: Sequence[AttemptReport], bill: Bill | None) -> web.StreamResponse:
        """Say within the answer why it ends. Raises `error` where nothing has been sent."""
        self._waiting_since_s = self._clock()
        if route := self._explanation(reports):
            error.details = {**error.details, "route": route}
        return await self.outlet.fail(error, self._usage(bill))

    def _word_ending(self, reports: Sequence[AttemptReport], bill: Bill | None) -> bytes:
        if self._ending is None:
            self._ending = self.outlet.ending(self._usage(bill), self._explanation(reports))
        return self._ending

    def _usage(self, bill: Bill | None) -> dict[str, Any]:
        return {} if bill is None else usage_shown(bill)

    def _explanation(self, reports: Sequence[AttemptReport]) -> dict[str, Any] | None:
        """Why it went where it went, for who asked."""
        if self._explained is None:
            return None
        return {**self._explained.explain(), "attempts": attempts_shown(reports)}

    def _response_headers(self, reports: Sequence[AttemptReport]) -> dict[str, str]:
        trail = answer_headers(reports, self._started_s, self._clock())
        return {**self._headers, "x-request-id": str(self._request_id), **trail}

    def _final_headers(self, reports: Sequence[AttemptReport], bill: Bill | None) -> dict[str, str]:
        """A plain answer's headers go out with its end, and so can tell what it cost."""
        headers = self._response_headers(reports)
        if not self.outlet.delivers:
            headers["x-caduceus-cost"] = format_usd(bill.charge_pusd) if bill is not None else "0.00"
        return headers
