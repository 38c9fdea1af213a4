"""From a request and a script to a play: the head, the pieces of the body with their times, and how it ends.

Pure: `player.Player` performs it. Waits are seconds after the piece before, so a late one does not move the others.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, islice
from typing import Any

import orjson

from proxy.sandbox.answer import INLINE, Choice, Kind, compose
from proxy.sandbox.dialects import Dialect, Json, Refusal
from proxy.sandbox.request import Ask, beyond_context, read_ask
from proxy.sandbox.script import Script
from proxy.sandbox.wording import DONE, Wording, event, reported_usage

COMMENT = b": OPENROUTER PROCESSING\n\n"
COMMENT_EVERY_S = 1.0
NOT_JSON = b'data: {"id": "sandbox", "choices": [{"delta": {"content"\n\n'
NGINX_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
)
HTML = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We will be back soon.</body></html>"
REASONS = {401: "unauthorized", 403: "unauthorized", 404: "not_found", 429: "rate_limited"}


class Head(Enum):
    SENT = "sent"
    DRIBBLED = "byte by byte"
    WITHHELD = "never"


class Ending(Enum):
    CLEAN = "the body is whole"
    HANG = "silence"
    CUT = "FIN"
    RESET = "RST"
    GARBLED = "a chunk size that is no number, then FIN"


@dataclass(frozen=True, slots=True)
class Piece:
    data: bytes
    tokens: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Play:
    """What a player writes. `length` counts the body's bytes; None is a chunked body.

    `prompt_tokens`, `cached_tokens` and `finish_reason` are for the metrics.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    pieces: Iterable[Piece]
    length: int | None = None
    head: Head = Head.SENT
    ending: Ending = Ending.CLEAN
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str = "error"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a play depends on beside the request. `flap_fails`: this request is one that the fault `flap` refuses."""

    dialect: Dialect
    script: Script
    model: str
    context_tokens: int
    answer_id: str
    created: int
    flap_fails: bool = False

    def wording(self, *, raw: bool = False, ask: Ask | None = None) -> Wording:
        shape = self.script.reasoning_as or self.dialect.reasoning_as
        if ask and self.script.reasoning_as is None and self.dialect.tags_in_streams:
            shape = shape if ask.flagged and not ask.stream else "inline"
        if ask and ask.hides_thoughts and shape not in INLINE:
            shape = "hidden"
        probabilities = ask.top_logprobs if ask else None
        return Wording(self.dialect, shape, self.answer_id, self.created, self.model, raw, probabilities)

    def failure(self, status: int = 500) -> Refusal:
        return Refusal(status, "server", f"The Caduceus sandbox fails on request ({self.script.fault}).")


def plan_completion(stage: Stage, body: Any, *, raw: bool) -> Play:
    """The answer to `POST …/chat/completions`, or with `raw` to `POST …/completions`."""
    try:
        if early := fault_before_reading(stage):
            return early
        ask = read_ask(body, stage.dialect, stage.script, stage.context_tokens, raw=raw)
        check_model(body.get("model"), stage.model)
        wording = stage.wording(raw=raw, ask=ask)
        choices = compose(ask, stage.dialect.name, stage.script, wording.shape)
        plan_answer = plan_stream if ask.stream else plan_plain
        return replace(
            plan_answer(stage, wording, ask, choices),
            prompt_tokens=ask.prompt_tokens,
            cached_tokens=ask.cached_tokens,
            finish_reason=choices[0].finish_reason,
        )
    except Refusal as refusal:
        return plan_refusal(stage, refusal)


def check_model(asked: Any, served: str) -> None:
    """Refuse a model that is not `served`. Providers spell it differently: the last part has to begin like ours."""
    name = asked.rsplit("/", 1)[-1].lower() if isinstance(asked, str) else ""
    if not name.startswith(served.rsplit("/", 1)[-1].lower()):
        raise Refusal(404, "not_found", f"The model `{asked}` does not exist. Valid aliases: {served}.", "model")


def plan_refusal(stage: Stage, refusal: Refusal) -> Play:
    retry_after_s = stage.script.retry_after_s if refusal.status in (429, 503) else None
    headers = stage.dialect.headers(stage.answer_id, retry_after_s)
    return whole(refusal.status, "application/json", stage.wording().error_body(refusal), headers)


def whole(status: int, content_type: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> Play:
    """An answer whose body is known in full and sent at once."""
    return Play(status, [("content-type", content_type), *headers], [Piece(body)] if body else [], len(body))


def fault_before_reading(stage: Stage) -> Play | None:
    """The play of a fault that does not depend on the request. Raises Refusal where the fault is an ordinary error."""
    nothing = Play(0, (), (), head=Head.WITHHELD)
    match stage.script.fault:
        case "refuse" | "reset_before_headers":
            return replace(nothing, ending=Ending.RESET)
        case "hang_before_headers":
            return replace(nothing, ending=Ending.HANG)
        case "html_200":
            return whole(200, "text/html; charset=utf-8", HTML)
        case "html_502":
            return whole(502, "text/html", NGINX_502 + b"</body>\r\n</html>\r\n", [("server", "nginx")])
        case "empty_200":
            return whole(200, "application/json", b"")
        case "error_200":
            return whole(200, "application/json", stage.wording().error_body(stage.failure()))
        case "flap" if stage.flap_fails:
            raise Refusal(503, "unavailable", "The Caduceus sandbox fails every other time on request (flap).")
    if asked := stage.script.status:
        raise scripted_refusal(stage, *asked)
    return None


def scripted_refusal(stage: Stage, status: int, meaning: str | None) -> Refusal:
    if meaning == "context":
        return beyond_context(stage.context_tokens)
    if meaning == "filter":
        return Refusal(status, "filter", "The prompt was refused by the content filter.", "messages")
    message = f"The Caduceus sandbox fails on request ({stage.script.fault})."
    if status == 429:
        message = stage.dialect.rate_limit_message
    default = "bad_request" if status < 500 else "unavailable" if status in (502, 503, 529) else "server"
    return Refusal(status, REASONS.get(status, default), message)


def plan_stream(stage: Stage, wording: Wording, ask: Ask, choices: Sequence[Choice]) -> Play:
    script, headers = stage.script, stage.dialect.headers(stage.answer_id)
    play = Play(
        200, [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"), *headers], ()
    )
    before, content = preamble(stage, wording, ask), tokens(stage, wording, ask, choices)
    after_events = script.events_before_fault
    match script.fault:
        case "hang_after_headers":
            return replace(play, ending=Ending.HANG)
        case "error_first_event":
            return replace(play, pieces=[Piece(wording.error_event(stage.failure()), 0, script.first_token_s)])
        case "choices_error_200":
            refused = event(wording.choice_error(stage.failure(502), stream=True)) + DONE
            return replace(play, pieces=[Piece(refused, 0, script.first_token_s)])
        case "hang_mid_stream" | "cut_mid_stream" | "reset_mid_stream" | "bad_chunk_framing":
            return replace(play, pieces=chain(before, torn(content, script)), ending=MID_STREAM[script.fault])
        case "error_mid_stream":
            failed = Piece(wording.error_event(stage.failure()), 0, script.interval_s)
            return replace(play, pieces=chain(before, islice(content, after_events), [failed]))
        case "not_json_event":
            rest = chain([Piece(NOT_JSON)], content, closing(stage, wording, ask, choices))
            return replace(play, pieces=chain(before, islice(content, after_events), rest))
        case "no_finish_no_done":
            return replace(play, pieces=chain(before, islice(content, script.after_events)))
        case "content_filter":
            filtered = [replace(choice, finish_reason="content_filter") for choice in choices]
            last = closing(stage, wording, ask, filtered, after_events)
            return replace(play, pieces=chain(before, islice(content, after_events), last))
    pieces = chain(before, content, closing(stage, wording, ask, choices))
    if script.fault == "gzip":
        return replace(play, headers=[*play.headers, ("content-encoding", "gzip")], pieces=gzipped(pieces))
    return replace(play, pieces=pieces, head=head_of(script))


MID_STREAM = {
    "hang_mid_stream": Ending.HANG,
    "cut_mid_stream": Ending.CUT,
    "reset_mid_stream": Ending.RESET,
    "bad_chunk_framing": Ending.GARBLED,
}


def head_of(script: Script) -> Head:
    return Head.DRIBBLED if script.fault == "slow_headers" else Head.SENT


def preamble(stage: Stage, wording: Wording, ask: Ask) -> Iterator[Piece]:
    """What comes before the first token, up to the instant of the first token."""
    wait_s = stage.script.first_token_s
    if stage.dialect.comments:
        yield Piece(COMMENT)
        while wait_s > COMMENT_EVERY_S:
            yield Piece(COMMENT, 0, COMMENT_EVERY_S)
            wait_s -= COMMENT_EVERY_S
    usage = usage_of(stage, ask, 0, 0) if ask.continuous_usage or stage.script.usage == "every_chunk" else None
    for index in range(ask.choices):
        yield Piece(wording.role_chunk(index, usage) or b"", 0, 0.0 if index else wait_s)


def tokens(stage: Stage, wording: Wording, ask: Ask, choices: Sequence[Choice]) -> Iterator[Piece]:
    """One piece for each token, the choices in turn. A token that is not shown is waited for like any other."""
    every_chunk = ask.continuous_usage or stage.script.usage == "every_chunk"
    count, reasoning = 0, 0
    for position in range(max(len(choice.tokens) for choice in choices)):
        for index, choice in enumerate(choices):
            if position >= len(choice.tokens):
                continue
            token = choice.tokens[position]
            count += 1
            reasoning += token.kind is Kind.REASONING
            usage = usage_of(stage, ask, count, reasoning) if every_chunk else None
            last = finishes_with_token(stage, choice) and position == len(choice.tokens) - 1
            data = wording.token_chunk(index, token, choice, usage, last=last)
            yield Piece(data or b"", 1, stage.script.interval_s if count > 1 else 0.0)


def finishes_with_token(stage: Stage, choice: Choice) -> bool:
    """vLLM puts the finish reason on the last token of an answer that was cut by length."""
    return stage.dialect.engine and choice.finish_reason == "length"


def closing(
    stage: Stage, wording: Wording, ask: Ask, choices: Sequence[Choice], delivered: int | None = None
) -> Iterator[Piece]:
    """Finish reasons, usage, `[DONE]`. `delivered` counts the tokens that were sent; None: all of them."""
    count = sum(len(choice.tokens) for choice in choices)
    count = count if delivered is None else min(count, delivered)
    usage = usage_of(stage, ask, count, min(count, reasoning_of(stage, choices)))
    on_finish = usage if usage and (ask.continuous_usage or stage.script.usage == "every_chunk") else None
    for index, choice in enumerate(choices):
        if not finishes_with_token(stage, choice):
            yield Piece(wording.finish_chunk(index, choice, on_finish))
    asked = ask.include_usage or stage.dialect.usage_unasked or stage.script.usage == "every_chunk"
    if usage is not None and asked:
        for _ in range(2 if stage.script.usage == "twice" else 1):
            yield Piece(wording.usage_chunk(usage))
    if stage.script.fault != "no_done":
        yield Piece(DONE)


def reasoning_of(stage: Stage, choices: Sequence[Choice]) -> int:
    """vLLM counts a thought by its tags, also one that its parser left in the text."""
    tagged = sum(choice.inline_thought_tokens() for choice in choices) if stage.dialect.engine else 0
    return tagged + sum(choice.count(Kind.REASONING) for choice in choices)


def usage_of(stage: Stage, ask: Ask, completion: int, reasoning: int) -> Json | None:
    if stage.script.usage == "missing":
        return None
    return reported_usage(stage.dialect, stage.script.usage, ask, completion, reasoning)


def torn(content: Iterator[Piece], script: Script) -> Iterator[Piece]:
    """The tokens before the fault, and with `torn` half of the event after them."""
    yield from islice(content, script.events_before_fault)
    if script.torn and (broken := next(content, None)):
        yield Piece(broken.data[: len(broken.data) // 2], 0, broken.wait_s)


def gzipped(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Compressed, and flushed after each event so that it can be read as it comes."""
    compressor = zlib.compressobj(wbits=31)
    for piece in pieces:
        data = compressor.compress(piece.data) + compressor.flush(zlib.Z_SYNC_FLUSH) if piece.data else b""
        yield replace(piece, data=data)
    yield Piece(compressor.flush())


def plain_content(stage: Stage, wording: Wording, ask: Ask, choices: Sequence[Choice]) -> bytes:
    fault = stage.script.fault
    if fault == "choices_error_200":
        return orjson.dumps(wording.choice_error(stage.failure(502), stream=False))
    if fault == "content_filter":
        kept = stage.script.events_before_fault
        choices = [replace(choice, tokens=choice.tokens[:kept], finish_reason="content_filter") for choice in choices]
    count = sum(len(choice.tokens) for choice in choices)
    usage = usage_of(stage, ask, count, reasoning_of(stage, choices))
    worded = wording.plain_body(choices, usage)
    if fault == "no_finish_no_done":
        for choice in worded["choices"]:
            choice["finish_reason"] = None
    body = orjson.dumps(worded)
    return body[: len(body) // 2] if fault == "not_json_event" else body


def plan_plain(stage: Stage, wording: Wording, ask: Ask, choices: Sequence[Choice]) -> Play:
    """The whole body at the instant of the last token; faults in the middle strike after half of it."""
    script, fault = stage.script, stage.script.fault
    if fault in ("error_mid_stream", "error_first_event"):
        raise stage.failure()
    body = plain_content(stage, wording, ask, choices)
    headers = [("content-type", "application/json"), *stage.dialect.headers(stage.answer_id)]
    if fault == "gzip":
        compressor = zlib.compressobj(wbits=31)
        body = compressor.compress(body) + compressor.flush()
        headers.append(("content-encoding", "gzip"))
    play = Play(200, headers, (), len(body), head_of(script))
    if fault == "hang_after_headers":
        return replace(play, ending=Ending.HANG)
    thinking = generation(script, sum(len(choice.tokens) for choice in choices))
    if fault in MID_STREAM:
        length = None if fault == "bad_chunk_framing" else play.length
        pieces = chain(thinking, [Piece(body[: len(body) // 2])])
        return replace(play, pieces=pieces, length=length, ending=MID_STREAM[fault])
    return replace(play, pieces=chain(thinking, [Piece(body)]))


def generation(script: Script, count: int) -> Iterator[Piece]:
    """The time that a plain answer takes, token by token, so that a client that leaves is seen to have left."""
    if not script.first_token_s and not script.interval_s:
        yield Piece(b"", count)
        return
    for i in range(count):
        yield Piece(b"", 1, script.interval_s if i else script.first_token_s)
