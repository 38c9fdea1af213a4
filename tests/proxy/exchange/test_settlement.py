"""What is made of reports: the rules of "What is charged" in tables, then whole requests up to their bill."""

from math import ceil
from typing import Any

import orjson
import pytest

from ledger.billing import Bill, Ending, Tokens, UsageSource, bill, excessive
from ledger.prices import Price
from providers.chat_request import ChatRequest, Reasoning
from providers.events import FailureKind as K
from providers.events import Usage
from proxy.exchange.meter import AttemptReport, Reading
from proxy.exchange.settlement import (
    Counted,
    answer_headers,
    attempts_shown,
    believable,
    cost_unknown,
    count_exactly,
    delivering_attempt,
    delivery,
    elapsed_ms,
    how_it_ended,
    least_expected,
    number,
    quick_count,
    reported_source,
    reported_tokens,
    state_of,
    tokens_so_far,
    usage_shown,
)
from tests.proxy.exchange.parts import BUY, SELL, TOOL, candidate, chat, cut, failed, reading, report

USD = 10**12
LEFT = {"done": False, "finished": False, "finish_reason": None}  # within the answer


# How an attempt ended

ENDINGS = {
    "in full": (report(), False, Ending.COMPLETE),
    "the provider failed within what the client was sent": (cut("The herald"), False, Ending.PROVIDER_CUT),
    "the provider failed within what nobody was sent": (cut("The herald", delivered=False), False, Ending.FAILED),
    "the provider failed before its first word": (failed(K.CONNECT, connected=False), False, Ending.FAILED),
    "the client left within the answer": (report(**LEFT), True, Ending.CLIENT_LEFT),
    "the client left before the first word": (report(first_content_s=None, **LEFT), True, Ending.CLIENT_LEFT),
    "the client left before the status": (report(status=None, **LEFT), True, Ending.CLIENT_LEFT),
    "the client left while a refusal came": (report(status=503, **LEFT), True, Ending.FAILED),
    "the client left before there was a connection": (report(connected=False, status=None), True, Ending.FAILED),
    "the client left after the provider had failed": (cut("The herald"), True, Ending.PROVIDER_CUT),
    "a repair": (report(repairs=True, delivered=False), False, Ending.REPAIR),
    "a repair that the client left": (report(repairs=True, delivered=False, **LEFT), True, Ending.REPAIR),
    "a repair that failed": (failed(K.SERVER_ERROR, repairs=True), False, Ending.FAILED),
}


@pytest.mark.parametrize(("attempt", "client_left", "ending"), ENDINGS.values(), ids=ENDINGS)
def test_how_an_attempt_ended(attempt: AttemptReport, client_left: bool, ending: Ending) -> None:
    assert how_it_ended(attempt, client_left=client_left) is ending


# Whether the provider's count is believed without a look at the tokenizer


def of_least(prompt_tokens: int) -> ChatRequest:
    """One message of which so many tokens are expected: one for 5.25 bytes, and 10 for the template."""
    return chat("x" * ceil(5.25 * (prompt_tokens - 10)))


@pytest.mark.parametrize(
    ("expected", "reported", "believed"),
    [
        # 20 tokens more are believed of what is short, 10 % more of what is long; at 200 that is the same.
        (100, 100, True),
        (100, 120, True),
        (100, 121, False),
        (200, 220, True),
        (200, 221, False),
        (1_000, 1_100, True),
        (1_000, 1_101, False),
        (1_000, 1_600, False),
        (100, 1, True),  # less is always believed
    ],
)
def test_a_count_is_believed_up_to_ten_percent_and_twenty_tokens_above_what_is_expected(
    expected: int, reported: int, believed: bool
) -> None:
    other_side = 100  # is as expected
    answer = report(reading=Reading(pieces=expected), usage=Usage(other_side, reported))
    assert believable(answer.usage, answer, of_least(other_side)) is believed, "completion"
    answer = report(reading=Reading(pieces=other_side), usage=Usage(reported, other_side))
    assert believable(answer.usage, answer, of_least(expected)) is believed, "prompt"


@pytest.mark.parametrize(
    ("usage", "text", "believed"),
    [
        (Usage(25, 3), "Here it is", True),
        (Usage(1, 3), "Here it is", True),
        (Usage(0, 3), "Here it is", False),
        (Usage(-1, 3), "Here it is", False),
        (Usage(25, 0), "Here it is", False),
        (Usage(25, -1), "Here it is", False),
        (Usage(25, 0), "", True),
        (Usage(25, -1), "", False),
    ],
)
def test_a_count_that_cannot_be_is_not_believed(usage: Usage, text: str, believed: bool) -> None:
    assert believable(usage, report(reading=reading(text), usage=usage), chat()) is believed


PROSE = (
    "Plants absorb sunlight through chlorophyll, a pigment located in the chloroplasts. This energy is used to convert "
    "carbon dioxide and water into glucose and oxygen. The process takes place in two stages: the light-dependent "
    "reactions and the Calvin cycle. "
) * 20
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "god", "schema": {"type": "object"}}}
PROMPTS = {
    "one word": chat("Hello"),
    "a system message": chat(messages=SYSTEM),
    "tools": chat(messages=SYSTEM, tools=[TOOL]),
    "any object": chat("Hello", response_format={"type": "json_object"}),
    "a schema": chat("Hello", response_format=SCHEMA),
    "a thought": chat("Hello", reasoning=Reasoning(enabled=True)),
    "prose": chat(PROSE),
    "a raw prompt": chat(prompt="Hello", messages=[]),
    "raw prose": chat(prompt=PROSE, messages=[]),
}


@pytest.mark.parametrize("wanted", PROMPTS.values(), ids=PROMPTS)
def test_no_count_of_a_prompt_is_believed_that_an_exact_count_would_dispute(wanted: ChatRequest) -> None:
    counted = count_exactly(report(), wanted).tokens.prompt
    disputed = next(tokens for tokens in range(counted, 10**6) if excessive(tokens, counted))
    assert not believable(Usage(disputed, 5), report(), wanted)
    assert believable(Usage(counted, 5), report(), wanted) or counted < 300, "an honest count of prose is believed"


def test_no_count_of_an_answer_is_believed_that_an_exact_count_would_dispute() -> None:
    """A few pieces may hold a long text."""
    answer = report(reading=reading(PROSE, pieces=3))
    counted = count_exactly(answer, chat()).tokens.completion
    disputed = next(tokens for tokens in range(counted, 10**6) if excessive(tokens, counted))
    assert not believable(Usage(25, disputed), answer, chat())
    assert believable(Usage(25, counted), answer, chat())


def least_prompt(request: ChatRequest, added_prompt: str = "") -> int:
    return least_expected(report(added_prompt=added_prompt), request).prompt


def test_what_is_expected_of_a_prompt() -> None:
    texts = chat("x" * 525)
    assert least_prompt(texts) == 100 + 5 + 5
    assert least_prompt(chat("x" * 530)) == 100 + 5 + 5, "rounded down"
    twice = chat(messages=[{"role": "user", "content": "x" * 210}, {"role": "user", "content": "x" * 315}])
    assert least_prompt(twice) == 100 + 5 + 2 * 5
    assert least_prompt(chat(prompt="x" * 525, messages=[])) == 100, "no template is around a raw prompt"
    assert least_prompt(texts, added_prompt="x" * 105) == least_prompt(texts) + 20


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_what_is_expected_of_tools_whether_they_may_be_called_or_not(choice: str) -> None:
    tools_bytes = len(orjson.dumps([TOOL]))
    content = "x" * (525 - tools_bytes)
    assert least_prompt(chat(content, tools=[TOOL], tool_choice=choice)) == 100 + 5 + 5 + 200


def test_what_is_expected_of_a_format() -> None:
    wanted = {"type": "json_object"}
    content = "x" * (525 - len(orjson.dumps(wanted)))
    assert least_prompt(chat(content, response_format=wanted)) == 100 + 5 + 5 + 24


@pytest.mark.parametrize(
    ("text_bytes", "pieces", "expected"),
    [
        (0, 0, 0),
        (525, 0, 100),
        (525, 99, 100),
        (525, 101, 101),
        (530, 0, 100),
    ],
)
def test_what_is_expected_of_an_answer(text_bytes: int, pieces: int, expected: int) -> None:
    """A piece is a token or more, and so are 5.25 bytes, thoughts and calls among them."""
    for name in ("content", "reasoning", "calls"):
        shown = report(reading=Reading(pieces, **{name: b"x" * text_bytes}))
        assert least_expected(shown, chat()).completion == expected, name


# Our own count

SAID = "The herald carries a staff with two snakes. " * 30
SAID_TOKENS = 271
HELLO_TOKENS = 25  # of a conversation that is one "Hello", with what the template adds


def test_nothing_is_counted_of_what_failed() -> None:
    for attempt in (failed(K.SERVER_ERROR), cut("Some of it", delivered=False, usage=Usage(10**6, 10**6))):
        assert quick_count(attempt, chat(), Ending.FAILED) == Counted(Tokens(0), exactly=True)


@pytest.mark.parametrize("ending", [ending for ending in Ending if ending is not Ending.FAILED])
def test_a_believable_count_stands_for_ours(ending: Ending) -> None:
    answer = report(usage=Usage(26, 5, cached_tokens=20))
    assert quick_count(answer, chat(), ending) == Counted(Tokens(26, 0, 5, 0), exactly=False)


def test_of_a_believable_count_so_much_is_reasoning_as_there_were_pieces_of_it() -> None:
    thought = report(reading=reading("One two", "three four five"), usage=Usage(26, 6))
    assert quick_count(thought, chat(), Ending.COMPLETE) == Counted(Tokens(26, 0, 6, 3), exactly=False)
    less = report(reading=reading("One two", "three four five"), usage=Usage(26, 2))
    assert quick_count(less, chat(), Ending.COMPLETE) == Counted(Tokens(26, 0, 2, 2), exactly=False)


@pytest.mark.parametrize("usage", [None, Usage(0, 5), Usage(26, 10_000)], ids=["missing", "impossible", "too long"])
def test_else_it_must_be_counted(usage: Usage | None) -> None:
    assert quick_count(report(usage=usage), chat(), Ending.COMPLETE) is None


def test_an_exact_count_is_the_tokenizers() -> None:
    answer = report(reading=reading(SAID), usage=Usage(1, 1))
    assert count_exactly(answer, chat("Hello")) == Counted(Tokens(HELLO_TOKENS, 0, SAID_TOKENS, 0), exactly=True)
    added = report(reading=reading(SAID), added_prompt="Hello, world!")
    assert count_exactly(added, chat("Hello")) == Counted(Tokens(HELLO_TOKENS + 4, 0, SAID_TOKENS, 0), exactly=True)
    assert count_exactly(report(reading=Reading()), chat("Hello")) == Counted(Tokens(HELLO_TOKENS), exactly=True)


def test_what_was_cut_within_a_character_can_be_counted() -> None:
    assert count_exactly(report(reading=Reading(1, 0, content="Ça".encode()[:1])), chat()).tokens.completion > 0


@pytest.mark.parametrize(("thoughts", "share"), [(0, 0.0), (30, 0.25), (60, 0.5), (120, 1.0)])
def test_of_an_exact_count_the_share_of_the_pieces_is_reasoning(thoughts: int, share: float) -> None:
    half = len(SAID) // 2
    thought = report(reading=Reading(120, thoughts, SAID[:half].encode(), SAID[half:].encode()))
    assert count_exactly(thought, chat()).tokens.reasoning == round(SAID_TOKENS * share)


# What the provider reported

OURS = Tokens(100, completion=50, reasoning=20)


@pytest.mark.parametrize(
    ("usage", "continues", "expected"),
    [
        (None, False, None),
        (Usage(90, 40), False, Tokens(90, 0, 40, 20)),
        (Usage(90, 40, cached_tokens=0), False, Tokens(90, 0, 40, 20)),
        (Usage(90, 40, cached_tokens=64), False, Tokens(90, 64, 40, 20)),
        # How much was reasoning: its word, a zero too; ours where it is silent, but never more than all of it.
        (Usage(90, 40, reasoning_tokens=30), False, Tokens(90, 0, 40, 30)),
        (Usage(90, 40, reasoning_tokens=0), False, Tokens(90, 0, 40, 0)),
        (Usage(90, 15), False, Tokens(90, 0, 15, 15)),
        (Usage(90, -5), False, Tokens(90, 0, -5, 0)),
        # Of what went on from a seam it does not know that it was a thought.
        (Usage(90, 40, reasoning_tokens=0), True, Tokens(90, 0, 40, 20)),
    ],
)
def test_what_the_provider_reported(usage: Usage | None, continues: bool, expected: Tokens | None) -> None:
    assert reported_tokens(report(usage=usage, continues=continues), OURS) == expected


SOURCES = {
    "with the end of the answer": (report(), False, UsageSource.PROVIDER),
    "with the end, though the client had left": (report(), True, UsageSource.PROVIDER),
    "without [DONE], but the client is here": (report(done=False), False, UsageSource.PROVIDER),
    "as it stood when the client left": (report(**LEFT), True, UsageSource.CONTINUOUS),
    "as it stood when the provider failed": (cut("The herald", usage=Usage(26, 2)), False, UsageSource.CONTINUOUS),
    "before it failed behind [DONE]": (cut("The herald", done=True), False, UsageSource.CONTINUOUS),
}


@pytest.mark.parametrize(("attempt", "client_left", "source"), SOURCES.values(), ids=SOURCES)
def test_when_the_provider_reported_it(attempt: AttemptReport, client_left: bool, source: UsageSource) -> None:
    assert reported_source(attempt, client_left=client_left) is source


UNKNOWN = {K.TIMEOUT, K.STALLED, K.CUT}


@pytest.mark.parametrize("kind", K)
def test_which_failures_may_have_cost_something(kind: K) -> None:
    """Without content: those of which nobody knows whether the provider was at work. With content: all."""
    assert cost_unknown(failed(kind)) is (kind in UNKNOWN)
    assert cost_unknown(failed(kind, first_content_s=11.0)) is True
    assert cost_unknown(failed(kind, first_content_s=11.0, usage=Usage(26, 2))) is False


def test_what_has_not_failed_cost_what_was_counted() -> None:
    assert cost_unknown(report(usage=None)) is False


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Tokens(1_000, completion=5)),
        (Usage(26, 7), Tokens(26, completion=7)),
        (Usage(26, 7, cached_tokens=20, reasoning_tokens=3), Tokens(26, completion=7)),
        (Usage(26, 10_000), Tokens(1_000, completion=5)),
        (Usage(26, 0), Tokens(1_000, completion=5)),
    ],
)
def test_what_a_checkpoint_notes(usage: Usage | None, expected: Tokens) -> None:
    """The provider's count where it is believable, else our estimate of the prompt, and the pieces that came."""
    assert tokens_so_far(report(usage=usage), chat(), prompt_tokens=1_000) == expected


# From reports to the bill

ELSEWHERE = Price(version_id=3, input_pusd=900, output_pusd=2_800, cached_input_pusd=90)
PROMPT_PUSD, WORD_PUSD = SELL.input_pusd, SELL.output_pusd


def second(**settings: Any) -> Any:
    return candidate("second", sell=ELSEWHERE, provider="chutes", **settings)


def billed(*attempts: AttemptReport, client_left: bool = False, hold_pusd: int = USD) -> Bill:
    """As a reservation does it: our own count where it costs nothing, else exactly."""
    deliveries = []
    for attempt in attempts:
        counted = quick_count(attempt, chat(), how_it_ended(attempt, client_left=client_left))
        counted = counted or count_exactly(attempt, chat())
        deliveries.append(delivery(attempt, counted, client_left=client_left))
    return bill(deliveries, hold_pusd)


def test_a_delivery_is_the_attempt_as_it_is_priced() -> None:
    there = candidate("first", region="eu-north1")
    counted = Counted(Tokens(26, completion=5), exactly=False)
    made = delivery(report(there, usage=Usage(26, 5, 20, 2)), counted, client_left=False)
    assert (made.endpoint, made.provider, made.sandbox) == ("first", "vllm", False)
    assert (made.sell, made.buy) == (SELL, BUY)
    assert (made.reported, made.counted, made.counted_exactly) == (Tokens(26, 20, 5, 2), counted.tokens, False)
    assert (made.ending, made.reported_source) == (Ending.COMPLETE, UsageSource.PROVIDER)
    assert (made.hidden_reasoning, made.cost_unknown) == (False, False)
    hidden = candidate("second", provider="sandbox", hidden_reasoning=True)
    made = delivery(failed(K.TIMEOUT, hidden), Counted(Tokens(0), exactly=True), client_left=False)
    assert (made.endpoint, made.provider, made.sandbox, made.reported) == ("second", "sandbox", True, None)
    assert (made.ending, made.hidden_reasoning, made.cost_unknown) == (Ending.FAILED, True, True)


def test_an_answer_in_full() -> None:
    due = billed(report(usage=Usage(26, 5, cached_tokens=10)))
    assert due.charge_pusd == 16 * SELL.input_pusd + 10 * SELL.cached_input_pusd + 5 * SELL.output_pusd
    assert due.cost_pusd == 16 * BUY.input_pusd + 10 * BUY.cached_input_pusd + 5 * BUY.output_pusd
    assert (due.source, due.flags) == (UsageSource.PROVIDER, ())


def test_an_answer_without_a_count_is_counted_here() -> None:
    due = billed(report(reading=reading(SAID), usage=None))
    assert due.charge_pusd == HELLO_TOKENS * PROMPT_PUSD + SAID_TOKENS * WORD_PUSD
    assert (due.source, due.flags) == (UsageSource.COUNTED, ("usage_missing",))


def test_a_client_that_leaves_within_the_answer_pays_what_was_generated() -> None:
    due = billed(report(reading=reading("The herald"), usage=Usage(26, 2), **LEFT), client_left=True)
    assert due.charge_pusd == 26 * PROMPT_PUSD + 2 * WORD_PUSD
    assert (due.source, due.flags) == (UsageSource.CONTINUOUS, ())


def test_a_client_that_leaves_before_the_first_word_pays_for_the_prompt() -> None:
    due = billed(failed(failure=None, ended_s=None), client_left=True)
    assert due.charge_pusd == HELLO_TOKENS * PROMPT_PUSD
    assert (due.source, due.flags) == (UsageSource.COUNTED, ("usage_missing",))


def test_a_client_that_leaves_before_there_was_a_connection_pays_nothing() -> None:
    due = billed(failed(failure=None, ended_s=None, connected=False, status=None), client_left=True)
    assert (due.charge_pusd, due.cost_pusd, due.flags) == (0, 0, ())


def test_of_an_answer_that_the_provider_cut_what_was_delivered_is_due() -> None:
    due = billed(cut("The herald", usage=Usage(26, 2)))
    assert due.charge_pusd == 26 * PROMPT_PUSD + 2 * WORD_PUSD
    assert due.source is UsageSource.CONTINUOUS


def test_of_an_answer_that_nobody_was_sent_nothing_is_due_and_its_cost_is_ours() -> None:
    due = billed(cut("The herald", delivered=False, usage=Usage(26, 2)))
    assert (due.charge_pusd, due.lines) == (0, ())
    assert due.cost_pusd == 26 * BUY.input_pusd + 2 * BUY.output_pusd
    assert billed(cut("The herald", delivered=False)).flags == ("cost_unknown",)


def test_after_a_failover_only_the_one_that_answered_is_due() -> None:
    due = billed(failed(K.SERVER_ERROR), report(second()))
    assert due.charge_pusd == 26 * ELSEWHERE.input_pusd + 5 * ELSEWHERE.output_pusd
    assert [line.endpoint for line in due.lines] == ["second"]
    assert due.flags == ()


def test_of_a_continued_answer_the_prompt_is_charged_once() -> None:
    first = cut("The herald", usage=Usage(26, 2))
    rest = report(
        second(), reading=reading("carries a staff."), usage=Usage(29, 3), continues=True, added_prompt="The herald"
    )
    due = billed(first, rest)
    assert [(line.endpoint, line.tokens) for line in due.lines] == [
        ("first", Tokens(26, completion=2)),
        ("second", Tokens(0, completion=3)),
    ]
    assert due.charge_pusd == 26 * PROMPT_PUSD + 2 * WORD_PUSD + 3 * ELSEWHERE.output_pusd
    assert [cost.cost_pusd for cost in due.costs] == [
        26 * BUY.input_pusd + 2 * BUY.output_pusd,
        29 * BUY.input_pusd + 3 * BUY.output_pusd,
    ]


def test_a_repair_is_our_cost() -> None:
    repair = report(usage=Usage(45, 9), reading=Reading(9), repairs=True, delivered=False, added_prompt="x" * 100)
    due = billed(report(), repair)
    assert due.charge_pusd == 26 * PROMPT_PUSD + 5 * WORD_PUSD
    assert due.tokens == Tokens(26, completion=5)
    assert due.costs[1].cost_pusd == 45 * BUY.input_pusd + 9 * BUY.output_pusd


@pytest.mark.parametrize("hidden", [True, False])
def test_a_count_far_beyond_what_came_is_due_where_reasoning_is_hidden_and_else_disputed(hidden: bool) -> None:
    due = billed(report(candidate(hidden_reasoning=hidden), reading=reading(SAID), usage=Usage(HELLO_TOKENS, 10_000)))
    if hidden:
        assert due.charge_pusd == HELLO_TOKENS * PROMPT_PUSD + 10_000 * WORD_PUSD
        assert (due.source, due.flags, due.disputed_pusd) == (UsageSource.PROVIDER, (), 0)
    else:
        assert due.charge_pusd == HELLO_TOKENS * PROMPT_PUSD + SAID_TOKENS * WORD_PUSD
        assert (due.source, due.flags) == (UsageSource.COUNTED, ("usage_disputed",))
        assert due.disputed_pusd == (10_000 - SAID_TOKENS) * BUY.output_pusd


def test_a_charge_never_exceeds_its_hold() -> None:
    due = billed(report(), hold_pusd=30_000)
    assert (due.charge_pusd, due.overrun_pusd, due.flags) == (30_000, 11_000, ("beyond_hold",))


# What is stored and shown

REPAIRED = report(repairs=True, delivered=False)
STATES = {
    "completed": ([report()], False, False, "completed"),
    "after a failover": ([failed(), report()], False, False, "completed"),
    "the client left": ([report(**LEFT)], True, False, "client_left"),
    "the client left, whatever else": ([failed()], True, True, "client_left"),
    "cut within what was sent": ([cut("The herald")], False, True, "cut"),
    "cut within what nobody was sent": ([cut("The herald", delivered=False)], False, True, "failed"),
    "the last attempt says it": ([cut("The herald"), failed()], False, True, "failed"),
    "but no repair does": ([report(), REPAIRED], False, True, "cut"),
    "nothing was tried": ([], False, True, "failed"),
    "only a repair, which cannot be": ([REPAIRED], False, True, "failed"),
}


@pytest.mark.parametrize(("attempts", "client_left", "has_failed", "state"), STATES.values(), ids=STATES)
def test_the_state_of_a_request(attempts: list[AttemptReport], client_left: bool, has_failed: bool, state: str) -> None:
    assert state_of(attempts, client_left=client_left, failed=has_failed) == state


def test_a_request_is_booked_under_the_endpoint_that_first_delivered() -> None:
    cut_here, rest = cut("The herald"), report(second())
    assert delivering_attempt([cut_here, rest]) is cut_here
    lost = failed(K.SERVER_ERROR)
    assert delivering_attempt([lost, rest]) is rest
    assert delivering_attempt([lost, held := report(delivered=False), REPAIRED]) is held, "a repair delivers nothing"
    assert delivering_attempt([lost, last := failed(K.TIMEOUT)]) is last
    assert delivering_attempt([]) is None


def test_what_is_told_of_attempts() -> None:
    refused = failed(K.SERVER_ERROR, started_s=10.0, ended_s=10.25, status=500, streamed=False)
    running = report(second(), first_content_s=11.5, ended_s=None, finish_reason=None)
    assert attempts_shown([refused, running]) == [
        {
            "endpoint": "first",
            "status": 500,
            "failure": "server_error",
            "finish_reason": None,
            "streamed": False,
            "first_content_ms": None,
            "total_ms": 250,
        },
        {
            "endpoint": "second",
            "status": 200,
            "failure": None,
            "finish_reason": None,
            "streamed": True,
            "first_content_ms": 1_500,
            "total_ms": None,
        },
    ]
    assert "their own words" not in str(attempts_shown([refused]))
    assert attempts_shown([REPAIRED])[0]["repair"] is True
    assert "repair" not in attempts_shown([report()])[0]


def test_headers_tell_whose_time_it_took() -> None:
    """Upstream: 250 ms to the end of the first, 1,500 to the first word of the second. The rest of 2 s is ours."""
    refused = failed(K.SERVER_ERROR, started_s=10.0, ended_s=10.25)
    answers = report(second(region="eu-north1"), started_s=10.3, first_content_s=11.8, ended_s=None)
    assert answer_headers([refused, answers], 9.9, 11.9) == {
        "x-caduceus-endpoint": "second",
        "x-caduceus-attempts": "2",
        "x-caduceus-region": "eu-north1",
        "server-timing": "gateway;dur=250, upstream;dur=1750",
        "cache-control": "no-store",
    }


def test_headers_of_an_endpoint_in_no_region() -> None:
    headers = answer_headers([report()], 10.0, 11.0)
    assert "x-caduceus-region" not in headers
    assert headers["server-timing"] == "gateway;dur=0, upstream;dur=1000"


def test_headers_never_tell_a_negative_time() -> None:
    """What runs has no time yet; what the clocks round away is not below zero."""
    assert "gateway;dur=0, " in answer_headers([report()], 10.5, 11.0)["server-timing"]
    running = report(first_content_s=None, ended_s=None)
    assert answer_headers([running], 10.0, 11.0)["server-timing"] == "gateway;dur=1000, upstream;dur=0"


@pytest.mark.parametrize(("start_s", "end_s", "ms"), [(10.0, None, None), (10.0, 10.0, 0), (10.0, 11.2346, 1235)])
def test_milliseconds(start_s: float, end_s: float | None, ms: int | None) -> None:
    assert elapsed_ms(start_s, end_s) == ms


def test_the_usage_shown_is_the_usage_billed() -> None:
    first = cut("The herald", usage=Usage(26, 2, cached_tokens=10))
    rest = report(second(), reading=reading("carries a", "thinks"), usage=Usage(29, 3), added_prompt="The herald")
    due = billed(first, rest)
    shown = orjson.loads(orjson.dumps(usage_shown(due)))
    assert shown == {
        "prompt_tokens": 26,
        "completion_tokens": 5,
        "total_tokens": 31,
        "prompt_tokens_details": {"cached_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 1},
        "cost": 0.0000000314,
        "cost_details": {"prompt": 0.000000017, "completion": 0.0000000144},
    }
    assert due.charge_pusd == 31_400 == 16 * 1_000 + 10 * 100 + 2 * 3_000 + 3 * 2_800


@pytest.mark.parametrize(
    ("pusd", "text"),
    [(0, b"0.00"), (1, b"0.000000000001"), (31_400, b"0.0000000314"), (12 * USD + USD // 4, b"12.25")],
)
def test_an_amount_is_a_json_number_to_the_last_digit(pusd: int, text: bytes) -> None:
    assert orjson.dumps(number(pusd)) == text
