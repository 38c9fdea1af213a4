"""What a prompt says to get JSON from an endpoint that enforces none: the schema, and why an answer did not fit.

The words are those of Hermes's JSON mode (github.com/NousResearch/Hermes-Function-Calling). The texts
in a schema are the caller's, so tags and control tokens in them are spelt with an escape of JSON.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import orjson

from providers.chat_request import TOOLS, ChatRequest, Message, Reasoning, text_content
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from providers.neutral import neutralise

JSON_MODE = "You are a helpful assistant that answers in JSON."
SCHEMA = " Here's the json schema you must adhere to:\n<schema>\n{}\n</schema>"
ANY_OBJECT = " Answer with one JSON object and nothing else."
CORRECTION = "That answer {}{}. Give the whole answer again, as JSON that fits, and nothing else."
TAG = re.compile(r"<(?=[|/A-Za-z])")


def instruction(wanted: JsonFormat) -> str:
    if wanted.schema is None:
        return JSON_MODE + ANY_OBJECT
    return JSON_MODE + SCHEMA.format(TAG.sub(r"\\u003c", orjson.dumps(wanted.schema).decode()))


def extra_bytes(wanted: JsonFormat) -> int:
    """How many bytes the instruction has beside the schema in it."""
    schema = b"" if wanted.schema is None else orjson.dumps(wanted.schema)
    return len(instruction(wanted).encode()) - len(schema)


def ask(messages: Sequence[Message], wanted: JsonFormat) -> list[Message]:
    """The conversation with an instruction to answer in JSON, in its first system message or in a new one."""
    asked = list(messages)
    for i, message in enumerate(asked):
        if message["role"] == "system":
            text = text_content(message.get("content"))
            asked[i] = {**message, "content": f"{text}\n\n{instruction(wanted)}" if text else instruction(wanted)}
            return asked
    return [{"role": "system", "content": instruction(wanted)}, *asked]


def ask_again(request: ChatRequest, answer: str, problem: Problem) -> ChatRequest:
    """The conversation with an answer that does not fit, and why.

    The new request offers no tools and asks for no thought.
    """
    where = f" (at {problem.path})" if problem.path else ""
    correction = neutralise(CORRECTION.format(problem.message, where))
    return replace(
        request,
        messages=[
            *request.messages,
            *([{"role": "assistant", "content": answer}] if answer.strip() else []),
            {"role": "user", "content": correction},
        ],
        parameters={name: value for name, value in request.parameters.items() if name not in TOOLS},
        reasoning=Reasoning(None if request.reasoning.enabled is None else False),
    )
