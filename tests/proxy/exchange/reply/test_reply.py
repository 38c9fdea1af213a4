"""What a client is told beside the answer: in the head of the response, in its end, and when nothing came of it."""

import asyncio
from uuid import UUID

import pytest

from providers.events import Delta, Failure, FailureKind
from proxy.entry.api_errors import ApiError
from proxy.exchange.reply.idempotency import KeptAnswer, Recording
from proxy.exchange.reply.outlets import PlainOutlet, StreamOutlet
from proxy.exchange.reply.reply import Reply
from proxy.routing.route import Exclusion, Route
from tests.proxy.exchange.reply.client import LAST_CHUNK, Client, Message, Words, chunk
from tests.proxy.exchange.reports import answered, bill_of, report
from tests.proxy.routing.routes import candidate
from tests.proxy.upstream.wire import Clock

REQUEST_ID = UUID(int=7)
REFUSED = Failure(FailureKind.RATE_LIMITED, "slow down", 429)
ROUTE = Route((candidate("here"),), (Exclusion("there", "zdr", "no zero data retention is agreed with it"),))


class Told:
    """A reply to a client. The request came at 10 s, which is where its clock stands."""

    def __init__(self, *, stream: bool = True, explained: Route | None = None, record_bytes: int | None = None) -> None:
        self.client, self.clock = Client(), Clock(10.0)
        self.words = Words()
        self.messages: list[Message] = []
        self.outlet = self._streamed(record_bytes) if stream else PlainOutlet(self.client.request, self._new_message)
        headers = {"x-ratelimit-remaining-requests": "3"}
        self.reply = Reply(
            self.outlet, REQUEST_ID, headers, explained=explained, started_s=self.clock(), clock=self.clock
        )

    def _streamed(self, record_bytes: int | None) -> StreamOutlet:
        recording = None if record_bytes is None else Recording(record_bytes)
        return StreamOutlet(self.client.request, self.words, clock=self.clock, show_usage=True, recording=recording)

    def _new_message(self) -> Message:
        self.messages.append(Message())
        return self.messages[-1]

    def says(self, text: str) -> None:
        self.outlet.write(Delta(content=text))
        self.outlet.flush()

    @property
    def headers(self) -> dict[str, str]:
        """Ours among those of the response."""
        ours = ("x-", "server-timing", "cache-control")
        return {name: value for name, value in self.client.headers.items() if name.startswith(ours)}


# The head


async def test_the_head_of_a_stream() -> None:
    told = Told()
    told.reply.announce_hold(25_000_000)
    told.says("Hello")
    assert told.reply.needs_opening
    told.clock.now_s = 11.0
    await told.reply.open([report(candidate("here", region="eu"), 10.2, first_content_s=10.9)])
    assert told.headers == {
        "x-ratelimit-remaining-requests": "3",
        "x-caduceus-hold": "0.000025",
        "x-request-id": str(REQUEST_ID),
        "x-caduceus-endpoint": "here",
        "x-caduceus-attempts": "1",
        "x-caduceus-region": "eu",
        "server-timing": "gateway;dur=300, upstream;dur=700",
        "cache-control": "no-store",
    }
    assert not told.reply.needs_opening


async def test_every_attempt_counts_and_the_last_one_answers() -> None:
    told = Told()
    refused = report("first", 10.0, ended_s=10.5, failure=REFUSED, status=429)
    told.clock.now_s = 12.0
    await told.reply.open([refused, report("second", 11.0, first_content_s=11.25)])
    assert told.headers["x-caduceus-endpoint"] == "second"
    assert told.headers["x-caduceus-attempts"] == "2"
    assert told.headers["server-timing"] == "gateway;dur=1250, upstream;dur=750"
    assert "x-caduceus-region" not in told.headers


async def test_a_plain_answer_tells_in_its_head_what_it_cost() -> None:
    told = Told(stream=False)
    told.says("Hello")
    attempt = answered()
    await told.reply.end([attempt], bill_of(attempt))
    assert told.headers["x-caduceus-cost"] == "0.000025"

    told = Told(stream=False)
    await told.reply.end([answered()], None)
    assert told.headers["x-caduceus-cost"] == "0.00"


async def test_the_head_of_a_stream_does_not_tell_the_cost() -> None:
    told = Told()
    attempt = answered()
    await told.reply.end([attempt], bill_of(attempt))
    assert "x-caduceus-cost" not in told.headers


# The end


async def test_a_stream_ends_with_what_is_billed() -> None:
    told = Told()
    attempt = answered()
    told.reply.begin_attempt("here")
    told.says("Hello")
    await told.reply.end([attempt], bill_of(attempt))
    assert told.client.body == [chunk(b"Hello"), chunk(b"[end of here 15 tokens]"), LAST_CHUNK]


async def test_an_answer_that_begins_again_is_another_endpoints() -> None:
    told = Told(stream=False)
    told.reply.begin_attempt("first")
    told.says("Hel")
    told.reply.begin_again()
    told.reply.begin_attempt("second")
    told.says("Hello")
    await told.reply.end([answered("second")], None)
    assert b"".join(told.client.body) == b"Hello[end of second]"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_end_is_worded_once(stream: bool) -> None:
    told = Told(stream=stream, record_bytes=100)
    attempt = answered()
    told.says("Hello")
    kept = told.reply.keep([attempt], bill_of(attempt), 100)
    await told.reply.end([attempt], bill_of(attempt))
    assert kept is not None
    assert kept.body == b"Hello[end 15 tokens]"
    assert sum(surface.endings for surface in (told.words, *told.messages)) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_the_route_is_explained_to_who_asks(stream: bool) -> None:
    for explained, said in ((None, b"[end]"), (ROUTE, b"[end explained]")):
        told = Told(stream=stream, explained=explained)
        await told.reply.end([answered()], None)
        assert said in b"".join(told.client.body)


async def test_what_an_explanation_says() -> None:
    told = Told(explained=ROUTE)
    reports = [report("here", 10.0, ended_s=10.5, failure=REFUSED, status=429)]
    error = ApiError("upstream_rate_limited", "every endpoint is out of capacity", details={"why": "so"})
    with pytest.raises(ApiError) as raised:
        await told.reply.fail(error, reports, None)
    route = dict(raised.value.details["route"])
    (attempt,) = route.pop("attempts")
    assert raised.value.details["why"] == "so"
    assert route == {
        "candidates": [{"endpoint": "here", "reason": "first token in about 0.50 s"}],
        "excluded": [{"endpoint": "there", "reason": "no zero data retention is agreed with it"}],
    }
    assert (attempt["endpoint"], attempt["failure"], attempt["total_ms"]) == ("here", "rate_limited", 500)


async def test_a_failure_before_the_head_is_raised_as_it_is() -> None:
    told = Told()
    error = ApiError("upstream_failed", "every endpoint tried failed", details={"why": "so"})
    with pytest.raises(ApiError) as raised:
        await told.reply.fail(error, [], None)
    assert (raised.value, error.details, told.client.sent) == (error, {"why": "so"}, [])


async def test_a_failure_after_the_head_ends_the_stream() -> None:
    told = Told()
    told.says("Hel")
    await told.reply.open([report()])
    await told.reply.fail(ApiError("upstream_failed", "it broke off"), [report()], None)
    assert told.client.body == [chunk(b"Hel"), chunk(b"[upstream_failed]"), LAST_CHUNK]


# What is kept


async def test_the_answer_that_is_kept_is_the_one_that_is_sent() -> None:
    told = Told(stream=False)
    attempt = answered()
    told.says("Hello")
    kept = told.reply.keep([attempt], bill_of(attempt), 100)
    await told.reply.end([attempt], bill_of(attempt))
    assert kept == KeptAnswer(
        {
            "x-request-id": str(REQUEST_ID),
            "x-caduceus-endpoint": "here",
            "x-caduceus-attempts": "1",
            "x-caduceus-cost": "0.000025",
            "cache-control": "no-store",
            "content-type": "application/json",
        },
        b"".join(told.client.body),
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_beyond_the_limit_is_not_kept(stream: bool) -> None:
    body = b"Hello[end]"
    for limit_bytes, whole in ((len(body), body), (len(body) - 1, None)):
        told = Told(stream=stream, record_bytes=limit_bytes)
        told.says("Hello")
        kept = told.reply.keep([answered()], None, limit_bytes)
        assert (kept and kept.body) == whole


# A client that does not keep pace


async def test_a_client_that_reads_too_slowly_is_dropped() -> None:
    told = Told()
    await told.reply.open([report()])
    told.client.stops_reading()
    told.says("Hello")
    assert told.reply.congested
    assert not told.reply.waits_for_client
    waiting = asyncio.ensure_future(told.reply.keep_pace())
    await asyncio.sleep(0)
    assert told.reply.waits_for_client
    told.reply.tick(70.0, 60.0)
    assert told.client.end is None
    told.reply.tick(70.1, 60.0)
    assert told.client.end == "aborted"
    told.client.leaves()
    await waiting


async def test_a_client_that_reads_on_in_time_is_kept() -> None:
    told = Told()
    await told.reply.open([report()])
    told.client.stops_reading()
    told.says("Hello")
    waiting = asyncio.ensure_future(told.reply.keep_pace())
    await asyncio.sleep(0)
    told.client.reads_on()
    await waiting
    assert not told.reply.waits_for_client
    told.reply.tick(1_000.0, 60.0)
    assert told.client.end is None


@pytest.mark.parametrize("stream", [True, False])
async def test_after_the_end_only_the_client_can_keep_us_waiting(stream: bool) -> None:
    told = Told(stream=stream)
    told.client.stops_reading()
    ending = asyncio.ensure_future(told.reply.end([answered()], None))
    await asyncio.sleep(0)
    assert (ending.done(), told.reply.waits_for_client) == (False, True)
    told.reply.tick(70.1, 60.0)
    assert told.client.end == "aborted"
    told.client.leaves()
    await ending


async def test_a_failure_waits_for_the_client_too() -> None:
    told = Told()
    await told.reply.open([report()])
    told.client.stops_reading()
    failing = asyncio.ensure_future(told.reply.fail(ApiError("upstream_failed", "it broke off"), [report()], None))
    await asyncio.sleep(0)
    assert (failing.done(), told.reply.waits_for_client) == (False, True)
    told.client.reads_on()
    await failing


async def test_after_a_silence_a_comment_is_sent() -> None:
    told = Told()
    assert told.reply.keep_alive(25.0, 15.0) is False
    assert told.reply.keep_alive(25.1, 15.0) is True
    assert told.reply.needs_opening
