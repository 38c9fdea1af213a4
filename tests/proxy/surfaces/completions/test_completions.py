"""OpenAI's Completions: a text is continued to the letter, through the same routing and billing as everything else."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from providers.adapter import ADAPTERS, Target, prompt_ceiling_tokens
from providers.answers.reader import AnswerReader
from providers.events import Delta
from providers.means import Means
from providers.tokenizer import count_request, count_text
from proxy.entry.api_errors import ApiError
from proxy.sandbox.script import Script
from proxy.surfaces.completions.surface import COMPLETIONS
from proxy.surfaces.surface import Identity, SurfaceRequest

MODEL = "NousResearch/Hermes-4-405B"
PROMPT = "Once upon a time"
# In the model's own format the sandbox can tell where an answer begins, and so go on with one.
TURN = "<|start_header_id|>user<|end_header_id|>\n\nTell me<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
TAGGED = "<think>\nWhat next?\n</think>\nthere was a herald."


def read(**fields: Any) -> SurfaceRequest:
    body = {"model": MODEL, "prompt": PROMPT, **fields}
    return COMPLETIONS.read(orjson.dumps(body), lambda model: model.removeprefix(MODEL).removeprefix(":"))


async def ask(house: Any, **fields: Any) -> tuple[Mapping[str, str], Any]:
    body = {"model": MODEL, "prompt": PROMPT, "provider": {"order": list(house.places)}, **fields}
    headers = {"authorization": f"Bearer {house.key}"}
    async with house.client.post(f"{house.address}/v1/completions", json=body, headers=headers) as response:
        raw = await response.read()
        if not response.content_type.startswith("text/event-stream"):
            return response.headers, orjson.loads(raw)
        assert raw.endswith(b"\n\n")
        return response.headers, [block.removeprefix(b"data: ") for block in raw.split(b"\n\n")[:-1]]


async def stream(house: Any, **fields: Any) -> list[Any]:
    """The chunks of an answer that came to its end."""
    _, events = await ask(house, stream=True, stream_options={"include_usage": True}, **fields)
    assert events.pop() == b"[DONE]"
    return [orjson.loads(event) for event in events]


def joined(chunks: Sequence[Any], index: int = 0) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


# A request, inwards


def test_what_is_sent_is_the_text_as_it_stands() -> None:
    request = read(prompt="<|eot_id|>\n  a", max_tokens=7, stop=["."], logprobs=0, user="anna").chat
    body = orjson.loads(ADAPTERS["vllm"].encode(request, Target("m", FULL), Means(), max_tokens=7, stream=True))
    assert body == {
        "model": "m",
        "prompt": "<|eot_id|>\n  a",
        "stop": ["."],
        "logprobs": 0,
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert ADAPTERS["vllm"].path(request) == "/completions"
    assert request.needs == {"completions", "logprobs"}


FULL = frozenset({"completions", "logprobs", "n"})


def test_sixteen_tokens_are_the_default() -> None:
    assert read().chat.max_tokens == 16


def test_a_list_of_one_text_is_that_text() -> None:
    assert read(prompt=[PROMPT]).chat.prompt == PROMPT


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"prompt": ""}, "missing_required_parameter", "prompt"),
        ({"prompt": []}, "missing_required_parameter", "prompt"),
        ({"prompt": [""]}, "missing_required_parameter", "prompt"),
        ({"prompt": [1, 2]}, "invalid_request", "prompt"),
        ({"prompt": [7]}, "invalid_request", "prompt"),
        ({"prompt": [[1, 2], [3]]}, "invalid_request", "prompt"),
        ({"prompt": ["a", "b"]}, "invalid_request", "prompt"),
        ({"prompt": {"text": "a"}}, "invalid_request", "prompt"),
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"logprobs": True}, "invalid_request", "logprobs"),
        ({"logprobs": 21}, "invalid_request", "logprobs"),
        ({"temperature": 3}, "invalid_request", "temperature"),
        ({"echo": "yes"}, "invalid_request", "echo"),
        ({"echo": True, "provider": {"require_parameters": True}}, "unsupported_parameter", "echo"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(**fields)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"suffix": None, "echo": False, "best_of": 1}, ()),
        ({"n": 2, "best_of": 2}, ()),
        ({"suffix": "the end", "echo": True, "best_of": 3}, ("best_of", "echo", "suffix")),
        ({"messages": [], "response_format": {"type": "json_object"}}, ("messages", "response_format")),
        ({"reasoning": {"enabled": True}}, ("reasoning",)),
        ({"model": f"{MODEL}:thinking"}, (":thinking",)),
    ],
)
def test_what_is_not_done_is_named(fields: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert read(**fields).ignored == ignored


def test_the_prompt_is_counted_without_a_template() -> None:
    request = read(prompt="<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>").chat
    assert count_request(request) == 1 + 3 + count_text("user") + count_text("\n\nHi")
    assert count_request(read().chat) == 1 + count_text(PROMPT)
    assert count_request(request) <= prompt_ceiling_tokens(request) == request.prompt_bytes + 4


# An answer, outwards


IDENTITY = Identity(UUID(int=7), 1_700_000_000, MODEL, "both")
HEAD = (
    b'data: {"id":"cmpl-00000000-0000-0000-0000-000000000007","object":"text_completion","created":1700000000,'
    b'"model":"NousResearch/Hermes-4-405B","provider":"first","choices":['
)


def event(choice: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps({"id": "x", "object": "text_completion", "choices": [choice]}) + b"\n\n"


def text_choice(text: str, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None, **more}


def deltas(*pieces: bytes, plain: bool = False) -> list[Any]:
    reader = AnswerReader(plain=plain)
    return [found for piece in pieces for found in reader.feed(piece)] + reader.end()


def test_a_stream_of_chunks() -> None:
    logprobs = {"tokens": [" end"], "token_logprobs": [-0.5], "top_logprobs": [{" end": -0.5}], "text_offset": [4]}
    encoder = COMPLETIONS.stream(IDENTITY)
    encoder.provider = "first"
    assert [
        encoder.encode(Delta(0, None, "the")),
        encoder.encode(Delta(0, None, None)),
        encoder.encode(Delta(1, None, ' "end"')),
        encoder.encode(Delta(0, None, " end", None, "stop", {"logprobs": logprobs, "stop_reason": 7})),
        encoder.finish({"cost": 1}, None, show_usage=True),
    ] == [
        HEAD + b'{"text":"the","index":0,"logprobs":null,"finish_reason":null}]}\n\n',
        b"",
        HEAD + b'{"text":" \\"end\\"","index":1,"logprobs":null,"finish_reason":null}]}\n\n',
        HEAD
        + b'{"text":" end","index":0,"logprobs":'
        + orjson.dumps(logprobs)
        + b',"finish_reason":"stop","stop_reason":7}]}\n\n',
        HEAD + b'],"usage":{"cost":1}}\n\ndata: [DONE]\n\n',
    ]


def test_an_error_in_a_stream() -> None:
    encoder = COMPLETIONS.stream(IDENTITY)
    encoder.provider = "first"
    last = encoder.error(ApiError("upstream_failed", "it broke"), {"cost": 1})
    assert last.startswith(HEAD + b'{"text":"","index":0,"logprobs":null,"finish_reason":"error"}],"error":{')
    assert orjson.loads(last.removeprefix(b"data: "))["usage"] == {"cost": 1}


def test_tags_in_a_raw_answer_are_text_wherever_the_bytes_are_cut() -> None:
    """A chat's reader would take the same text for a thought."""
    wire = b"".join(event(text_choice(piece)) for piece in ("<thi", "nk>\nWhy", "</think>", " so")) + event(
        text_choice(".", "stop")
    )
    for cut in range(len(wire)):
        found = deltas(wire[:cut], wire[cut:])
        assert "".join(delta.content or "" for delta in found) == "<think>\nWhy</think> so."
        assert not any(delta.reasoning for delta in found)
        assert found[-1].finish_reason == "stop"


def test_several_raw_choices_put_together() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0]}
    body = {
        "choices": [text_choice("<think>a", "length", logprobs=logprobs), text_choice("b", "stop", 1)],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    message = COMPLETIONS.message(IDENTITY)
    for delta in deltas(orjson.dumps(body), plain=True):
        message.add(delta)
    assert orjson.loads(message.body({}, None))["choices"] == [
        {"text": "<think>a", "index": 0, "logprobs": logprobs, "finish_reason": "length"},
        {"text": "b", "index": 1, "logprobs": None, "finish_reason": "stop"},
    ]


# Through the whole proxy


async def test_a_plain_completion_is_answered_metered_and_billed(house: Any) -> None:
    headers, answer = await ask(house, max_tokens=200)
    row = await house.only_request()
    received = house.asked("first")[0]
    assert received.path == "/v1/completions"
    assert received.body["prompt"] == PROMPT
    assert "messages" not in received.body
    assert answer["object"] == "text_completion"
    assert answer["id"] == f"cmpl-{row['id']}"
    (choice,) = answer["choices"]
    assert choice["text"].startswith("This is the Caduceus sandbox")
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert (row["surface"], row["state"]) == ("completions", "completed")
    assert answer["usage"]["completion_tokens"] == row["completion_tokens"] > 10
    assert Decimal(headers["x-caduceus-cost"]) == Decimal(row["charge_pusd"]) / 10**12


async def test_a_streamed_completion_says_the_same_and_its_usage_last(house: Any) -> None:
    chunks = await stream(house, max_tokens=200)
    _, plain = await ask(house, max_tokens=200)
    assert joined(chunks) == plain["choices"][0]["text"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == (
        [],
        plain["usage"]["completion_tokens"],
    )
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert not [chunk for chunk in chunks[:-1] if "usage" in chunk]


async def test_without_a_limit_it_ends_after_sixteen_tokens(house: Any) -> None:
    _, answer = await ask(house)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 16


async def test_what_the_model_thinks_stays_in_the_text(open_house: Any) -> None:
    house = await open_house({"first": {"sandbox": {"script": Script(text=TAGGED)}}})
    _, plain = await ask(house, max_tokens=100)
    assert plain["choices"][0]["text"] == TAGGED
    assert joined(await stream(house, max_tokens=100)) == TAGGED


async def test_several_choices(house: Any) -> None:
    chunks = await stream(house, n=2, max_tokens=100)
    assert joined(chunks, 1).endswith("This is choice 2.")
    assert not joined(chunks, 0).endswith("This is choice 2.")


async def test_only_endpoints_that_take_raw_prompts_are_asked(open_house: Any) -> None:
    house = await open_house({"chat-only": {"supports": ["tools"]}, "raw": {"supports": ["completions"]}})
    _, answer = await ask(house)
    assert answer["provider"] == "raw"
    assert not house.asked("chat-only")
    _, refused = await ask(house, provider={"only": ["chat-only"]})
    assert refused["error"]["code"] == "no_eligible_endpoint"


async def test_before_the_first_text_another_endpoint_takes_over(open_house: Any) -> None:
    house = await open_house({"ill": {"sandbox": {"script": Script(fault="status:500")}}, "well": {}})
    assert joined(await stream(house, max_tokens=100)).startswith("This is the Caduceus sandbox")


@pytest.mark.parametrize("after", [1, 5, 9])
async def test_a_text_that_breaks_off_is_continued_to_the_letter(open_house: Any, after: int) -> None:
    whole = "  Of the herald's staff \n\n it is said:\n  two snakes\t and   wings. "
    cut = Script(text=whole, fault="cut_mid_stream", after_events=after)
    house = await open_house({"cut": {"sandbox": {"script": cut}}, "well": {"sandbox": {"script": Script(text=whole)}}})
    chunks = await stream(house, prompt=TURN, max_tokens=100)
    assert joined(chunks) == whole
    prompt = house.asked("well")[0].body["prompt"]
    assert prompt.startswith(TURN)
    assert whole.startswith(prompt.removeprefix(TURN))
    row = await house.only_request()
    assert row["state"] == "completed"
    assert [line["endpoint"] for line in orjson.loads(row["lines"])] == ["cut", "well"]


async def test_a_break_that_cannot_be_mended_is_told_in_the_stream(open_house: Any) -> None:
    house = await open_house({"cut": {"sandbox": {"script": Script(fault="cut_mid_stream", after_events=3)}}})
    _, events = await ask(house, stream=True, max_tokens=100)
    last = orjson.loads(events[-1])
    assert last["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "error"}]
    assert last["error"]["code"] == "upstream_failed"
    assert last["usage"]["completion_tokens"] == 3
    assert (await house.only_request())["state"] == "cut"


async def test_what_is_not_done_is_named_in_a_header(house: Any) -> None:
    headers, _ = await ask(house, echo=True, suffix="the end")
    assert headers["x-caduceus-ignored"] == "echo, suffix"
