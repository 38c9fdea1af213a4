"""An answer that must be JSON and is none: one more try where nobody has it yet, and what is said where it stays so."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from providers.adapter import Adapter
from providers.chat_request import ChatRequest, Reasoning
from providers.events import Delta
from providers.formats.response_format import JsonFormat
from proxy.exchange.formats.json_outlet import JsonOutlet
from proxy.exchange.formats.repair import check_and_repair
from proxy.exchange.planning import PromptLength
from proxy.routing.observations import RetryBudget
from tests.proxy.exchange.parts import BY_ENGINE, BY_PROMPT, BY_PROVIDER, TOOL, candidate, chat
from tests.proxy.exchange.talks import (
    COSTLY,
    REFUSED,
    FakeSchemas,
    RecordingOutlet,
    Talk,
    breaks_off,
    refuses,
    says,
)

FITS, DOES_NOT, BETTER = '{"name": "Hermes"}', "[1]", '{"name": "Iris"}'
WANTED = {"response_format": {"type": "json_object"}}
NO_OBJECT = {"message": "is not a JSON object", "path": ""}
CORRECTION = "That answer is not a JSON object. Give the whole answer again, as JSON that fits, and nothing else."

# The check itself


class Asked:
    """Answers `better` to every correction, and keeps them."""

    def __init__(self, better: str | None = BETTER) -> None:
        self.corrections: list[ChatRequest] = []
        self._better = better

    async def __call__(self, correction: ChatRequest) -> str | None:
        self.corrections.append(correction)
        return self._better


async def checked(texts: Sequence[str], ask: Asked, *, finish: str = "stop", streams: bool = False) -> RecordingOutlet:
    """The client of an answer with these choices, checked and repaired."""
    client = RecordingOutlet([], delivers=streams)
    shaped = JsonOutlet(client, JsonFormat())
    for index, text in enumerate(texts):
        shaped.write(Delta(index, None, text))
        shaped.write(Delta(index, finish_reason=finish))
    check = partial(FakeSchemas().problem, JsonFormat(), tenant_id=7)
    await check_and_repair(shaped, chat(**WANTED), check, ask)
    return client


async def test_what_fits_is_not_asked_for_again() -> None:
    client = await checked([FITS], ask := Asked())
    assert (client.text, client.finish_reasons, client.schema_error) == (FITS, ["stop"], None)
    assert ask.corrections == []


async def test_what_does_not_is_asked_for_once_more() -> None:
    client = await checked([DOES_NOT], ask := Asked())
    assert (client.text, client.finish_reasons, client.schema_error) == (BETTER, ["stop"], None)
    [correction] = ask.corrections
    assert correction.messages == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": DOES_NOT},
        {"role": "user", "content": CORRECTION},
    ]


@pytest.mark.parametrize("better", [None, "[2]", "no JSON"])
async def test_what_is_no_better_is_not_taken(better: str | None) -> None:
    client = await checked([DOES_NOT], Asked(better))
    assert (client.text, client.finish_reasons, client.schema_error) == (DOES_NOT, ["stop"], NO_OBJECT)


@pytest.mark.parametrize(
    ("texts", "how"),
    [
        ([DOES_NOT], {"streams": True}),
        ([DOES_NOT], {"finish": "length"}),
        ([DOES_NOT, DOES_NOT], {}),
        ([COSTLY], {}),
    ],
    ids=["the client has it", "it had no more tokens", "of several choices", "it costs too much to check"],
)
async def test_what_cannot_be_repaired_says_so(texts: Sequence[str], how: dict[str, Any]) -> None:
    client = await checked(texts, ask := Asked(), **how)
    assert client.schema_error is not None
    assert client.text == "".join(texts)
    assert ask.corrections == []


async def test_of_several_choices_each_has_its_own_end() -> None:
    client = await checked([FITS, DOES_NOT], Asked())
    ends = {delta.index: delta.extra for delta in client.deltas if delta.finish_reason}
    assert ends == {0: None, 1: {"schema_error": NO_OBJECT}}


async def test_nothing_is_not_repeated_to_the_endpoint() -> None:
    client = await checked(["  "], ask := Asked())
    assert [message["role"] for message in ask.corrections[0].messages] == ["user", "user"]
    assert client.text == BETTER


# As one more attempt of a pursuit


def wanted(*, stream: bool = False, **fields: Any) -> ChatRequest:
    return chat(stream=stream, **WANTED, **fields)


def talk(request: ChatRequest | None = None, **settings: Any) -> Talk:
    """With an endpoint that is asked for JSON in its prompt."""
    means = settings.pop("means", BY_PROMPT)
    limits = {name: settings.pop(name) for name in ("context_tokens", "max_output_tokens") if name in settings}
    return Talk(request or wanted(), [candidate("first", means=means, **limits)], **settings)


async def test_an_answer_that_fits_at_once() -> None:
    told = talk(first=[says(FITS)])
    assert await told.run() is None
    assert (told.client.text, told.client.schema_error, len(told.reports)) == (FITS, None, 1)
    assert told.asked[0]["messages"][0]["role"] == "system"


async def test_an_answer_that_is_repaired() -> None:
    told = talk(first=[says(DOES_NOT), says(f"Sorry: {BETTER}", usage=(60, 9))], second=[])
    assert await told.run() is None
    assert told.log == ["ask first", "ask first"]
    assert (told.client.text, told.client.finish_reasons, told.client.schema_error) == (BETTER, ["stop"], None)
    first, repair = told.reports
    assert (first.repairs, repair.repairs, repair.delivered) == (False, True, False)
    assert repair.added_prompt == DOES_NOT + CORRECTION, "what its prompt has beyond the request's"
    again = told.asked[1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert told.retry_budget.requests == 10 + 0.2 - 1


async def test_a_repair_does_not_run_into_a_connection_that_had_been_closed() -> None:
    told = talk(first=[says(DOES_NOT), says(BETTER)])
    told.upstream.kept_alive.add("first")
    assert await told.run() is None
    assert [attempt.fresh for attempt in told.reports] == [False, True]


async def test_where_the_provider_says_that_it_enforces_it_that_is_asked_for_again() -> None:
    told = talk(means=BY_PROVIDER, first=[says(DOES_NOT), says(BETTER)])
    assert await told.run() is None
    assert [body["response_format"] for body in told.asked] == [WANTED["response_format"]] * 2
    assert told.client.text == BETTER


async def test_a_correction_asks_for_no_thought_and_offers_no_tools() -> None:
    request = wanted(reasoning=Reasoning(enabled=True), tools=[TOOL])
    told = talk(request, first=[says(DOES_NOT), says(BETTER)])
    assert await told.run() is None
    asked, again = told.asked
    assert ("tools" in asked, "tools" in again) == (True, False)
    assert asked["chat_template_kwargs"] == {"thinking": True}
    assert again["chat_template_kwargs"] == {"thinking": False}
    assert ("response_format" in asked, "response_format" in again) == (False, True), (
        "now nothing is in the grammar's way"
    )


async def test_an_endpoint_that_has_refused_the_schema_is_not_given_it_again() -> None:
    told = talk(means=BY_ENGINE, first=[refuses(400, "grammar is too large"), says(DOES_NOT), says(BETTER)])
    assert await told.run() is None
    assert ["response_format" in body for body in told.asked] == [True, False, False]


async def test_an_answer_is_whole_only_once_it_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves meanwhile must not find half of it under the Idempotency-Key; whoever waits is kept company."""
    checked = asyncio.Event()

    async def wait(*_: Any, **__: Any) -> None:
        await checked.wait()

    monkeypatch.setattr(FakeSchemas, "problem", wait)
    told = talk(first=[says(FITS)])
    comments: list[float] = []
    monkeypatch.setattr(told.client, "keep_alive", lambda now_s, _: bool(comments.append(now_s)))
    running = await told.started()
    assert not told.pursuit.whole
    told.tick(16.0)
    assert comments
    checked.set()
    assert await running is None
    assert told.pursuit.whole


async def test_a_request_that_could_not_be_worded_was_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: Any, **__: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(Adapter, "encode", encode)
    told = talk(first=[])
    with pytest.raises(ZeroDivisionError):
        await told.run()
    assert told.reports == ()


@pytest.mark.parametrize(
    "response",
    [says("[2]"), says(BETTER, finish="length"), breaks_off(BETTER), refuses(503), REFUSED],
    ids=["it does not fit either", "it has no end", "it breaks off", "it is refused", "nobody is there"],
)
async def test_a_repair_that_fails_leaves_the_answer_as_it_was(response: Any) -> None:
    told = talk(first=[says(DOES_NOT), response], second=[])
    assert await told.run() is None
    assert (told.client.text, told.client.schema_error) == (DOES_NOT, NO_OBJECT)


async def test_without_a_retry_budget_nothing_is_repaired() -> None:
    told = talk(first=[says(DOES_NOT)], retry_budget=RetryBudget(requests=0.0))
    assert await told.run() is None
    assert (told.client.text, told.client.schema_error) == (DOES_NOT, NO_OBJECT)


async def test_behind_the_total_timeout_nothing_is_repaired() -> None:
    told = talk(first=[says(DOES_NOT)])
    told.clock.now_s += 1_800.1
    assert await told.run() is None
    assert told.client.schema_error == NO_OBJECT


# Of the context 93 tokens are the prompt's, and beside the texts of answer and correction two messages take 48.
NEEDED_TOKENS = 93 + len(DOES_NOT + CORRECTION) + 2 * 24


@pytest.mark.parametrize(("room", "repaired"), [(30, True), (29, False)])
async def test_a_repair_needs_room_for_as_much_as_the_answer_had(room: int, repaired: bool) -> None:
    rest = [says(BETTER)] if repaired else []
    told = talk(context_tokens=NEEDED_TOKENS + room, first=[says(DOES_NOT, usage=(25, 30)), *rest])
    assert await told.run() is None
    assert told.client.text == (BETTER if repaired else DOES_NOT)
    if repaired:
        assert told.asked[1]["max_tokens"] == room


async def test_a_repair_is_not_asked_for_more_than_was_paid_for() -> None:
    told = talk(prompt=PromptLength(25, 93), first=[says(DOES_NOT), says(BETTER)])
    assert await told.run(max_tokens=300) is None
    assert told.asked[1]["max_tokens"] == 300


async def test_what_the_client_has_is_not_repaired() -> None:
    told = talk(wanted(stream=True), first=[says(DOES_NOT)])
    assert await told.run() is None
    assert (told.client.text, told.client.schema_error) == (DOES_NOT, NO_OBJECT)


async def test_after_a_failover_the_answer_of_the_second_is_checked() -> None:
    there = candidate("second", means=BY_PROMPT)
    told = Talk(
        wanted(),
        [candidate("first", means=BY_PROMPT), there],
        first=[breaks_off('{"name": ')],
        second=[says(DOES_NOT), says(BETTER)],
    )
    assert await told.run() is None
    assert told.log == ["ask first", "leave first", "begin again", "ask second", "ask second"]
    assert told.client.text == BETTER
