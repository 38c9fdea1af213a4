"""The attempts of one request as transcripts: who is asked what, what the client gets, why it ends.

Endpoints are scripted (`talks.py`): no socket, no waiting.
"""

import asyncio
from typing import Any

import pytest

from providers.chat_request import Reasoning
from providers.events import Failure, Usage
from providers.events import FailureKind as K
from proxy.exchange.meter import AttemptReport, Reading
from proxy.exchange.planning import PromptLength
from proxy.exchange.pursuit import Bell, note, stale
from proxy.routing.observations import Observation, RetryBudget
from tests.proxy.exchange.parts import BY_ENGINE, BY_PROVIDER, TOOL, TOOLS_AS_TEXT, candidate, chat, failed, report
from tests.proxy.exchange.talks import (
    NO_RESPONSE,
    REFUSED,
    SILENT,
    Talk,
    begins,
    breaks_off,
    breathe,
    event,
    events,
    no_response,
    refuses,
    says,
    says_plainly,
)

SENTENCE = "The herald carries a staff."
JSON = {"type": "json_object"}
SYSTEM_JSON = "You are a helpful assistant that answers in JSON. Answer with one JSON object and nothing else."


def spent(requests: float = 0.0, tokens: float = 1_000_000.0) -> RetryBudget:
    """A retry budget of which so much is left."""
    return RetryBudget(requests=requests, tokens=tokens)


def prefix(body: Any) -> Any:
    """What an endpoint is told to go on with; None where it is to begin."""
    last = body["messages"][-1]
    return last["content"] if last["role"] == "assistant" else None


def failures(talk: Talk) -> list[tuple[str, str | None]]:
    return [(each.candidate.endpoint.name, each.failure.kind.value if each.failure else None) for each in talk.reports]


# Answered


async def test_answered_at_once() -> None:
    talk = Talk(first=[says(SENTENCE, usage=(25, 5))], second=[])
    assert await talk.run(max_tokens=400) is None
    assert talk.log == ["ask first", f"client: {SENTENCE}"]
    assert talk.upstream.paths == ["/chat/completions"]
    [body] = talk.asked
    assert (body["model"], body["max_tokens"], body["stream"]) == ("hermes", 400, True)
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    [attempt] = talk.reports
    assert (attempt.failure, attempt.usage, attempt.delivered) == (None, Usage(25, 5), True)
    assert talk.client.finish_reasons == ["stop"]


async def test_the_head_goes_out_with_the_first_content() -> None:
    talk = Talk(first=[begins("The")])
    running = await talk.started()
    assert talk.log == ["ask first", "client: The", "open"]
    assert talk.client.headers is not None
    assert (talk.client.headers["x-caduceus-endpoint"], talk.client.headers["x-caduceus-attempts"]) == ("first", "1")
    talk.upstream.line.says(events(" herald"))
    talk.upstream.line.ends()
    assert await running is None
    assert talk.log[3:] == ["client:  herald"]


async def test_a_plain_answer() -> None:
    talk = Talk(chat(stream=False), [candidate("first", stream_plain=False)], first=[says_plainly(SENTENCE)])
    assert await talk.run() is None
    assert (talk.client.text, talk.log) == (SENTENCE, ["ask first"])
    assert "stream" not in talk.asked[0]


async def test_an_endpoint_streams_for_a_plain_answer_too() -> None:
    talk = Talk(chat(stream=False), first=[says(SENTENCE)])
    assert await talk.run() is None
    assert (talk.client.text, talk.asked[0]["stream"]) == (SENTENCE, True)
    assert not talk.reports[0].plain


async def test_an_endpoint_is_asked_for_no_more_than_its_context_has_room_for() -> None:
    short = candidate("first", context_tokens=1_000, max_output_tokens=900)
    talk = Talk(None, [short], prompt=PromptLength(25, 200), first=[says(SENTENCE)])
    assert await talk.run(max_tokens=4_000) is None
    assert talk.asked[0]["max_tokens"] == 800


# Another endpoint, before the client has anything


async def test_another_is_asked_where_the_first_fails() -> None:
    talk = Talk(first=[refuses(503)], second=[says(SENTENCE)])
    assert await talk.run() is None
    assert talk.log == ["ask first", "begin again", "ask second", f"client: {SENTENCE}"]
    assert failures(talk) == [("first", "unavailable"), ("second", None)]
    assert talk.asked[1]["messages"] == talk.asked[0]["messages"]


async def test_another_is_asked_where_no_connection_is_to_be_had() -> None:
    talk = Talk(first=[REFUSED], second=[says(SENTENCE)])
    assert await talk.run() is None
    assert talk.log == ["first refuses a connection", "begin again", "ask second", f"client: {SENTENCE}"]
    assert [attempt.connected for attempt in talk.reports] == [False, True]


async def test_of_a_plain_answer_that_breaks_off_nothing_is_kept() -> None:
    talk = Talk(chat(stream=False), first=[breaks_off("The herald")], second=[says(SENTENCE)])
    assert await talk.run() is None
    assert talk.log == ["ask first", "leave first", "begin again", "ask second"]
    assert (talk.client.text, prefix(talk.asked[1])) == (SENTENCE, None)
    assert talk.asked[1]["max_tokens"] == 1_000, "nothing of it is part of the answer"


async def test_the_request_itself_is_at_fault() -> None:
    talk = Talk(first=[refuses(400, "temperature must be at most 2")], second=[])
    error = await talk.run()
    assert error is not None
    assert (error.status, error.code, error.message) == (
        400,
        "upstream_rejected_request",
        "temperature must be at most 2",
    )
    assert talk.log == ["ask first"]


async def test_every_endpoint_fails() -> None:
    talk = Talk(first=[refuses(503)], second=[REFUSED], third=[breaks_off()])
    error = await talk.run()
    assert error is not None
    assert (error.status, error.code) == (502, "upstream_failed")
    assert error.attempts == [
        {"endpoint": "first", "failure": "unavailable"},
        {"endpoint": "second", "failure": "connect"},
        {"endpoint": "third", "failure": "cut"},
    ]


async def test_every_endpoint_is_saturated() -> None:
    talk = Talk(first=[refuses(429, **{"retry-after": "9"})], second=[refuses(429, **{"retry-after": "4"})])
    error = await talk.run()
    assert error is not None
    assert (error.status, error.retry_after_s) == (429, 4.0)


# The same endpoint again


async def test_a_connection_that_had_been_closed_is_replaced() -> None:
    talk = Talk(first=[no_response(), says(SENTENCE)], second=[], retry_budget=spent())
    talk.upstream.kept_alive.add("first")
    assert await talk.run() is None
    assert talk.log == ["ask first", "leave first", "ask first", f"client: {SENTENCE}"]
    assert [attempt.fresh for attempt in talk.reports] == [False, True]
    assert talk.observations["first"].failure_rate(100.0) == 0.0, "it tells nothing of the endpoint"


async def test_but_a_new_connection_without_a_response_is_a_failure() -> None:
    talk = Talk(first=[no_response()], second=[says(SENTENCE)])
    assert await talk.run() is None
    assert failures(talk) == [("first", "no_response"), ("second", None)]
    assert talk.observations["first"].failure_rate(100.0) == 1.0


async def test_a_replaced_connection_counts_as_one_try_for_the_client() -> None:
    talk = Talk(first=[no_response(), refuses(503)])
    talk.upstream.kept_alive.add("first")
    error = await talk.run()
    assert error is not None
    assert error.attempts == [{"endpoint": "first", "failure": "unavailable"}]


@pytest.mark.parametrize("means", [BY_ENGINE, BY_PROVIDER])
async def test_a_schema_that_is_refused_is_asked_for_in_the_prompt(means: Any) -> None:
    where = candidate("first", means=means)
    talk = Talk(
        chat(response_format=JSON), [where], first=[refuses(400, "grammar error"), says('So: {"a": 1}')], second=[]
    )
    assert await talk.run() is None
    assert talk.log == ["ask first", "ask first", 'client: {"a": 1}']
    asked_first, asked_again = talk.asked
    assert asked_first["response_format"] == JSON
    assert "response_format" not in asked_again
    assert asked_again["messages"][0] == {"role": "system", "content": SYSTEM_JSON}


async def test_a_schema_that_is_refused_costs_a_retry() -> None:
    where = candidate("first", means=BY_ENGINE)
    talk = Talk(
        chat(response_format=JSON), [where], retry_budget=spent(), first=[refuses(400, "grammar error")], second=[]
    )
    error = await talk.run()
    assert error is not None
    assert (error.code, len(talk.asked)) == ("upstream_rejected_request", 1)


# How often


@pytest.mark.parametrize(
    ("budget", "tries"),
    [
        (spent(requests=0.7), 1),  # and 0.2 for this request
        (spent(requests=0.8), 2),
        (spent(requests=1.8), 3),
        (spent(requests=9.0, tokens=0.0), 1),
        (spent(requests=9.0, tokens=100.0), 2),
    ],
)
async def test_the_retry_budget_bounds_the_tries(budget: RetryBudget, tries: int) -> None:
    """Of a prompt of 100 tokens; a fifth of it is added to the budget."""
    scripts = {name: [refuses(503)] for name in ("first", "second", "third")[:tries]}
    idle: dict[str, Any] = {name: [] for name in ("first", "second", "third")[tries:]}
    talk = Talk(prompt=PromptLength(100, 150), retry_budget=budget, **scripts, **idle)
    error = await talk.run()
    assert error is not None
    assert len(error.attempts) == len(talk.asked) == tries


async def test_nothing_is_tried_behind_the_total_timeout() -> None:
    talk = Talk(first=[SILENT], second=[], limits={"total_timeout_s": 60})
    running = await talk.started()
    talk.clock.now_s += 60.1
    talk.upstream.line.ends(Failure(K.SERVER_ERROR, "no"))
    error = await running
    assert error is not None
    assert error.attempts == [{"endpoint": "first", "failure": "server_error"}]


# An answer that goes on elsewhere


async def test_an_answer_that_breaks_off_goes_on_elsewhere() -> None:
    talk = Talk(first=[breaks_off("The herald carries")], second=[says(" a staff.", usage=(28, 2))])
    assert await talk.run(max_tokens=400) is None
    assert talk.log == ["ask first", "client: The herald carries", "leave first", "ask second", "client:  a staff."]
    body = talk.asked[1]
    assert (prefix(body), body["continue_final_message"], body["max_tokens"]) == ("The herald carries", True, 397)
    assert (talk.client.text, talk.client.finish_reasons) == (SENTENCE, ["stop"])
    first, second = talk.reports
    assert (first.delivered, first.continues, second.continues) == (True, False, True)
    assert second.added_prompt == "The herald carries"


async def test_the_white_space_at_the_seam_comes_once() -> None:
    cut = breaks_off("The herald carries \n")
    for rest in (" \na staff.", "a staff.", " a staff."):
        talk = Talk(first=[cut], second=[says(rest)])
        assert await talk.run() is None
        assert prefix(talk.asked[1]) == "The herald carries"
        assert talk.client.text == "The herald carries \na staff."


async def test_a_thought_goes_on_as_a_thought() -> None:
    talk = Talk(
        chat(reasoning=Reasoning(enabled=True)),
        first=[breaks_off(thought="Who is")],
        second=[says("it?</think>The herald.")],
    )
    assert await talk.run() is None
    assert prefix(talk.asked[1]) == "<think>Who is"
    assert (talk.client.thought, talk.client.text) == ("Who isit?", "The herald.")


async def test_it_may_break_off_again() -> None:
    talk = Talk(first=[breaks_off("The herald")], second=[breaks_off(" carries")], third=[says(" a staff.")])
    assert await talk.run() is None
    assert [prefix(body) for body in talk.asked] == [None, "The herald", "The herald carries"]
    assert talk.client.text == SENTENCE


async def test_only_those_that_can_continue_are_asked_to() -> None:
    cannot = candidate("second", supports=["tools"])
    talk = Talk(None, [cannot], first=[breaks_off("The herald")], second=[], third=[says(" carries a staff.")])
    assert await talk.run() is None
    assert failures(talk) == [("first", "cut"), ("third", None)]
    assert talk.client.text == SENTENCE


async def test_nobody_is_asked_twice_to_continue() -> None:
    cannot = candidate("second", supports=["tools"])
    talk = Talk(None, [cannot], first=[breaks_off("The herald")], second=[], third=[breaks_off(" carries")])
    error = await talk.run()
    assert error is not None
    assert failures(talk) == [("first", "cut"), ("third", "cut")]


@pytest.mark.parametrize(
    "how",
    [{"continuation": False}, {"candidates": [candidate("second", supports=["tools"])]}, {"retry_budget": spent()}],
)
async def test_else_it_ends_within_the_answer(how: dict[str, Any]) -> None:
    """The key forbids it, no endpoint can, or too much was tried again already."""
    talk = Talk(first=[breaks_off("The herald")], second=[], **how)
    error = await talk.run()
    assert error is not None
    assert (error.code, error.message) == ("upstream_failed", "the endpoint failed in the middle of the answer")
    assert talk.client.text == "The herald"


async def test_calls_that_are_text_are_read_across_the_seam() -> None:
    places = [candidate(name, means=TOOLS_AS_TEXT, supports=["prefix"]) for name in ("first", "second")]
    rest = '_call>{"name": "time", "arguments": {}}</tool_call>'
    talk = Talk(chat(tools=[TOOL]), places, first=[breaks_off("I look. <tool")], second=[says(rest)])
    assert await talk.run() is None
    assert prefix(talk.asked[1]) == "I look. <tool"
    assert (talk.client.text.strip(), talk.client.finish_reasons) == ("I look.", ["tool_calls"])
    calls = [call for delta in talk.client.deltas for call in delta.tool_calls or ()]
    assert "".join(call["function"].get("name") or "" for call in calls) == "time"
    assert "".join(call["function"].get("arguments") or "" for call in calls) == "{}"


async def test_what_an_emulation_held_back_is_shown_where_nothing_follows() -> None:
    where = candidate("first", means=TOOLS_AS_TEXT, supports=[])
    talk = Talk(chat(tools=[TOOL]), [where], first=[breaks_off("I look <tool")])
    error = await talk.run()
    assert error is not None
    assert talk.client.text == "I look <tool"


# A thought that ends by a limit of ours


async def test_a_thought_that_has_used_up_its_limit_is_closed_and_the_answer_asked_for() -> None:
    wanted = chat(reasoning=Reasoning(enabled=True, max_tokens=3))
    talk = Talk(wanted, first=[says(thought="Who is it?", finish="length", usage=(25, 3)), says("The herald.")])
    assert await talk.run(max_tokens=400) is None
    assert talk.log == ["ask first", "client: (Who is it?)", "ask first", "client: The herald."]
    assert [body["max_tokens"] for body in talk.asked] == [3, 397]
    assert prefix(talk.asked[1]) == "<think>Who is it?</think>"
    assert talk.client.finish_reasons == ["stop"], "of the answer and not of its part"
    assert [attempt.cut_short for attempt in talk.reports] == [True, False]


async def test_a_thought_shorter_than_its_limit_needs_no_second_part() -> None:
    wanted = chat(reasoning=Reasoning(enabled=True, max_tokens=300))
    talk = Talk(wanted, first=[says("The herald.", thought="Who is it?")])
    assert await talk.run() is None
    assert talk.client.finish_reasons == ["stop"]


async def test_the_answer_behind_a_thought_may_be_given_elsewhere() -> None:
    wanted = chat(reasoning=Reasoning(enabled=True, max_tokens=3))
    talk = Talk(wanted, first=[says(thought="Who is it?", finish="length"), refuses(503)], second=[says("The herald.")])
    assert await talk.run() is None
    assert talk.log[-3:] == ["ask first", "ask second", "client: The herald."]
    assert prefix(talk.asked[2]) == "<think>Who is it?</think>"
    assert (talk.client.thought, talk.client.text) == ("Who is it?", "The herald.")


async def test_where_a_grammar_would_forbid_it_the_thought_is_a_part_of_its_own() -> None:
    wanted = chat(reasoning=Reasoning(enabled=True), response_format=JSON)
    where = candidate("first", means=BY_ENGINE)
    talk = Talk(wanted, [where], first=[says("Who is it?", finish="stop"), says('{"a": 1}')])
    assert await talk.run() is None
    thinks, answers = talk.asked
    assert (prefix(thinks), thinks["stop"], "response_format" in thinks) == ("<think>", ["</think>"], False)
    assert (prefix(answers), "stop" in answers, answers["response_format"]) == (
        "<think>Who is it?</think>",
        False,
        JSON,
    )
    assert (talk.client.thought, talk.client.text) == ("Who is it?", '{"a": 1}')


# The ticker's visit


async def test_an_endpoint_that_says_nothing_is_left_for_another() -> None:
    """30 s, and a second for each 1,000 tokens of the prompt."""
    talk = Talk(prompt=PromptLength(2_000, 3_000), first=[SILENT], second=[says(SENTENCE)])
    running = await talk.started()
    assert talk.tick(32.0) is None, "nothing is delivered"
    assert talk.log == ["ask first"]
    talk.tick(0.1)
    assert await running is None
    assert talk.log == ["ask first", "leave first", "begin again", "ask second", f"client: {SENTENCE}"]
    assert failures(talk) == [("first", "timeout"), ("second", None)]


async def test_an_endpoint_that_is_known_to_be_quick_is_given_less_time() -> None:
    talk = Talk(first=[SILENT], second=[says(SENTENCE)])
    talk.observations["first"].first_token(0.8, 25, 100.0)
    running = await talk.started()
    talk.tick(8.0)
    assert talk.log == ["ask first"]
    talk.tick(0.1)
    assert await running is None


async def test_a_whole_answer_may_take_a_tenth_of_a_second_a_token() -> None:
    talk = Talk(chat(stream=False), [candidate("first", stream_plain=False)], first=[SILENT], second=[says(SENTENCE)])
    running = await talk.started(max_tokens=200)
    talk.tick(50.0)
    assert talk.log == ["ask first"]
    talk.tick(0.1)
    assert await running is None


async def test_an_endpoint_that_falls_silent_within_the_answer_is_left_for_another() -> None:
    talk = Talk(first=[begins("The herald")], second=[says(" carries a staff.")])
    running = await talk.started()
    talk.tick(0.0)
    talk.tick(20.0)
    assert "leave first" not in talk.log
    talk.tick(0.1)
    assert await running is None
    assert failures(talk) == [("first", "stalled"), ("second", None)]
    assert talk.client.text == SENTENCE


async def test_an_answer_is_whole_although_the_connection_stays_open() -> None:
    talk = Talk(first=[begins("The")], second=[])
    running = await talk.started()
    talk.upstream.line.says(events(" herald") + b"data: [DONE]\n\n")
    talk.tick(0.0)
    talk.tick(0.5)
    assert not running.done()
    talk.tick(0.1)
    assert await running is None
    assert (talk.client.text, talk.client.finish_reasons) == ("The herald", ["stop"])
    assert talk.log[-1] == "leave first"


async def test_but_an_open_connection_that_said_nothing_but_its_end_is_left_for_another() -> None:
    talk = Talk(first=[begins()], second=[says(SENTENCE)])
    running = await talk.started()
    talk.upstream.line.says(b"data: [DONE]\n\n")
    talk.tick(0.6)
    assert await running is None
    assert failures(talk) == [("first", "protocol"), ("second", None)]


async def test_the_total_timeout_ends_the_answer_wherever_it_is() -> None:
    talk = Talk(first=[begins("The herald")], second=[], limits={"total_timeout_s": 60})
    running = await talk.started()
    for _ in range(6):
        talk.tick(10.0)
        talk.upstream.line.says(event({"content": "."}))
    talk.tick(0.1)
    error = await running
    assert error is not None
    assert (error.status, error.code) == (504, "upstream_timeout")
    assert talk.client.text == "The herald......"


async def test_a_visit_tells_how_far_it_has_come() -> None:
    talk = Talk(first=[begins("The herald")])
    assert talk.tick(0.0) is None
    running = await talk.started()
    seen = talk.tick(1.0)
    assert seen is not None
    assert (seen.reading.pieces, seen.ended_s) == (2, None)
    talk.upstream.line.says(events())
    talk.upstream.line.ends()
    assert await running is None
    assert talk.tick(1.0) is None


# A client that does not keep pace


async def test_an_endpoint_is_not_read_while_the_client_does_not_read() -> None:
    talk = Talk(first=[begins("The herald")])
    running = await talk.started()
    talk.client.congested = True
    talk.upstream.line.says(event({"content": " carries"}))
    await breathe()
    assert (talk.log[-1], talk.upstream.line.paused) == ("pause first", True)
    talk.clock.now_s += 50.0
    talk.client.caught_up()
    await breathe()
    assert (talk.log[-1], talk.upstream.line.paused) == ("resume first", False)
    talk.tick(20.0)
    assert not running.done(), "the time of the pause is no silence of the endpoint"
    talk.upstream.line.says(events())
    talk.upstream.line.ends()
    assert await running is None


# An end before its time


async def test_what_is_given_up_ends_at_once() -> None:
    talk = Talk(first=[begins("The herald")], second=[])
    talk.pursuit.give_up()
    running = await talk.started()
    running.cancel()
    await asyncio.wait([running])
    talk.pursuit.give_up()
    assert talk.log[-1] == "leave first"
    assert failures(talk) == [("first", "cut")]


async def left_by_client(talk: Talk) -> Any:
    """The client leaves within the answer: the request's task is cancelled, and the pursuit wound up."""
    running = await talk.started()
    running.cancel()
    await asyncio.wait([running])
    leaving = asyncio.create_task(talk.pursuit.leave())
    await breathe()
    return leaving


async def test_a_provider_whose_bill_stops_is_left_with_the_client() -> None:
    talk = Talk(first=[begins("The herald")])
    leaving = await left_by_client(talk)
    assert leaving.done()
    assert talk.log[-1] == "leave first"
    [attempt] = talk.reports
    assert (attempt.failure, attempt.answered, attempt.ended_s) == (None, False, 100.0)


async def test_one_whose_bill_does_not_stop_is_heard_to_its_end() -> None:
    talk = Talk(None, [candidate("first", provider="nebius")], first=[begins("The herald")])
    leaving = await left_by_client(talk)
    assert not leaving.done()
    talk.upstream.line.says(events(" carries a staff.", usage=(25, 5)) + b"data: [DONE]\n\n")
    talk.upstream.line.ends()
    await leaving
    assert "leave first" not in talk.log
    [attempt] = talk.reports
    assert (attempt.answered, attempt.usage) == (True, Usage(25, 5))


async def test_then_it_is_read_again_although_the_client_had_not_kept_pace() -> None:
    talk = Talk(None, [candidate("first", provider="nebius")], first=[begins("The herald")])
    running = await talk.started()
    talk.client.congested = True
    talk.upstream.line.says(event({"content": " carries"}))
    await breathe()
    running.cancel()
    await asyncio.wait([running])
    leaving = asyncio.create_task(talk.pursuit.leave())
    await breathe()
    assert not talk.upstream.line.paused
    talk.upstream.line.ends()
    await leaving


async def test_but_not_for_ever() -> None:
    where = candidate("first", provider="nebius")
    talk = Talk(None, [where], first=[begins("The herald")], limits={"drain_upstream_s": 0.001})
    await (await left_by_client(talk))
    assert talk.log[-1] == "leave first"
    assert not talk.reports[0].answered


async def test_who_leaves_before_anything_was_asked_leaves_nothing() -> None:
    talk = Talk(first=[begins()])
    await talk.pursuit.leave()
    assert talk.log == []


# What an attempt tells of its endpoint


OBSERVED = {
    "an answer": (report(reading=Reading(pieces=6), started_s=10.0, first_content_s=11.0, ended_s=12.0), 0.0, 1.0, 0.2),
    "an answer of one piece": (report(reading=Reading(pieces=1)), 0.0, 1.0, None),
    "a whole answer, whose first token is its last": (report(plain=True, reading=Reading(pieces=1)), 0.0, None, None),
    "a failure": (failed(K.SERVER_ERROR), 1.0, None, None),
    "a failure within the answer": (failed(K.CUT, first_content_s=11.0), 1.0, 1.0, None),
    "a connection that had been closed": (failed(K.NO_RESPONSE, fresh=False), 0.0, None, None),
    "a new connection without a response": (failed(K.NO_RESPONSE), 1.0, None, None),
    "a client that left": (report(ended_s=None), 0.0, 1.0, None),
}


@pytest.mark.parametrize(("attempt", "failure_rate", "first_token_s", "token_s"), OBSERVED.values(), ids=OBSERVED)
def test_what_an_attempt_tells_of_its_endpoint(
    attempt: AttemptReport, failure_rate: float, first_token_s: float | None, token_s: float | None
) -> None:
    seen = Observation()
    seen.begin()
    note(attempt, seen, 25, 12.0, 0.5)
    assert (seen.in_flight, seen.failure_rate(12.0)) == (0, failure_rate)
    assert (seen.expected_first_token_s(25), seen.token_s.value) == (first_token_s, token_s)


def test_stale_is_a_used_connection_without_a_response() -> None:
    assert stale(failed(K.NO_RESPONSE, fresh=False))
    assert not stale(failed(K.NO_RESPONSE, fresh=True))
    assert not stale(failed(K.CUT, fresh=False))
    assert not stale(report(fresh=False))
    assert NO_RESPONSE.kind is K.NO_RESPONSE


async def test_a_bell_that_rang_before_anybody_listened_is_heard() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait()
    listening = asyncio.create_task(bell.wait())
    await breathe()
    assert not listening.done(), "two rings before are heard as one"
    bell.ring()
    await listening
