"""Llama 3's tokenizer, for counts that a provider does not report, or that are not to be believed.

The vocabulary is `llama_models/llama3/tokenizer.model` (Llama 3.1 Community License), in tiktoken's format: a token in
base64 and its rank a line. The pattern is Meta's (`llama_models/llama3/tokenizer.py`). Loading takes a fraction of a
second and some 35 MB, so it is loaded at the first count; that, and counting a long text, belong off the event loop.
"""

import re
from base64 import b64decode
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import orjson
from tiktoken._tiktoken import CoreBPE

from providers.adapter import asks_to_think
from providers.chat_request import ChatRequest, Message, text_content
from providers.formats.prompt import instruction
from providers.thinking import THINKING_PROMPT
from providers.tools.prompt import rewrite

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = re.compile(
    r"<\|(?:begin_of_text|end_of_text|start_header_id|end_header_id|eom_id|eot_id|python_tag|finetune_right_pad_id"
    r"|reserved_special_token_\d{1,3})\|>"
)
# The pattern overflows the regex engine's stack on a million spaces, and takes ever longer for a longer word; a cut may
# cost a token more.
PIECE_CHARACTERS = 50_000
# What Llama 3's template adds: BOS and the generation header; a header and an end of turn a message.
TOKENS_A_PROMPT = 5
TOKENS_A_TURN = 5
DEFAULT_SYSTEM = "You are Hermes, created by Nous Research."


@cache
def load() -> CoreBPE:
    """The tokenizer, as tiktoken's core: its `Encoding` would keep a second copy of the vocabulary."""
    spec = find_spec("llama_models")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package llama-models is not installed; run `make setup`")
    lines = (Path(spec.origin).parent / "llama3" / "tokenizer.model").read_bytes().splitlines()
    ranks = {b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    return CoreBPE(ranks, {}, PATTERN)


def is_loaded() -> bool:
    return load.cache_info().currsize > 0


def count_text(text: str) -> int:
    """Tokens of a text in which no special token counts as one: what looks like one is so many tokens of text."""
    tokenizer = load()
    if len(text) <= PIECE_CHARACTERS:
        return len(tokenizer.encode_ordinary(text))
    pieces = (text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS))
    return sum(len(tokenizer.encode_ordinary(piece)) for piece in pieces)


def count_request(request: ChatRequest) -> int:
    """Tokens of the prompt that a request becomes, with what is added to it: thinking prompt, tools, schema."""
    if request.prompt is not None:
        return count_raw(request.prompt)
    messages = request.messages
    if request.speaks_of_tools:  # about as an engine's template words them, also those that may not be called
        messages = rewrite(messages, request.shown_tools)
    schemas = instruction(request.format) if request.format else ""
    return count_prompt(messages, schemas, thinking=bool(request.reasoning.enabled))


def count_raw(prompt: str) -> int:
    """Tokens of a raw prompt: an engine puts BOS before it, and takes each control token in it for one token."""
    texts = CONTROL.split(prompt)
    return len(texts) + sum(map(count_text, texts))


def count_prompt(messages: Sequence[Message], schemas: str = "", *, thinking: bool = False) -> int:
    """Tokens of a conversation in Llama 3's template, with the text `schemas` and the prompt for `thinking` added."""
    total = TOKENS_A_PROMPT + count_text(schemas)
    has_system = False
    for message in messages:
        has_system = has_system or message["role"] == "system"
        total += TOKENS_A_TURN + count_text(text_content(message.get("content")))
        if calls := message.get("tool_calls"):
            total += count_text(orjson.dumps(calls).decode())
    if thinking and not asks_to_think(messages):
        total += count_text(THINKING_PROMPT)
    elif not has_system:
        total += count_text(DEFAULT_SYSTEM)
    return total if has_system else total + TOKENS_A_TURN
