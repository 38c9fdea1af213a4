"""The bytes of the bench: requests and answers, built once, in the shape vLLM gives them.

The prompt says what the answer is to look like (`tokens=600 pace=50`), because every proxy passes it on unchanged:
600 completion tokens, 50 a second. At pace 0 all of them come at once.
"""

import json
from functools import lru_cache

MODEL = "NousResearch/Hermes-4-405B"
PROMPT_TOKENS = 42
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "was", "on", "are", "as", "with", "his", "they")
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nserver: bench\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def request(*, port: int, key: str, stream: bool, tokens: int, pace: int) -> bytes:
    """A chat completion request, head and body. `pace` is in events per second."""
    prompt = f"Write plainly about the herald of the gods. tokens={tokens} pace={pace}"
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0.6,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def reasoning_tokens(tokens: int) -> int:
    """How many of an answer's tokens are its thoughts; they come first."""
    return tokens // 4


@lru_cache
def plain_answer(tokens: int) -> bytes:
    """Head and body of a whole answer."""
    thoughts = reasoning_tokens(tokens)
    message: dict[str, object] = {
        "role": "assistant",
        "content": "".join(map(word, range(thoughts, tokens))),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning": "".join(map(word, range(thoughts))),
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return json_answer(envelope("chat.completion", [choice]) | {"usage": usage(tokens)})


def json_answer(value: object) -> bytes:
    return document(b"application/json", compact(value))


def document(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nserver: bench\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


@lru_cache
def stream_answer(tokens: int, *, with_usage: bool) -> bytes:
    """Head and body of a streamed answer that comes all at once."""
    return b"".join(
        [opening(), *(token_frame(n, tokens) for n in range(tokens)), closing(tokens, with_usage=with_usage)]
    )


@lru_cache
def opening() -> bytes:
    return SSE_HEAD + frame(chunk({"role": "assistant", "content": ""}))


def token_frame(n: int, tokens: int) -> bytes:
    """The event of token `n` of `tokens`, framed as one HTTP chunk."""
    return delta_frame("reasoning" if n < reasoning_tokens(tokens) else "content", n % len(WORDS))


@lru_cache
def delta_frame(field: str, n: int) -> bytes:
    return frame(chunk({field: word(n)}))


@lru_cache
def closing(tokens: int, *, with_usage: bool) -> bytes:
    events = [chunk({}, finish_reason="stop")]
    if with_usage:
        events.append(compact(envelope("chat.completion.chunk", []) | {"usage": usage(tokens)}))
    return b"".join(map(frame, [*events, b"[DONE]"])) + LAST_CHUNK


def word(n: int) -> str:
    return " " + WORDS[n % len(WORDS)]


def usage(tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + tokens,
        "completion_tokens": tokens,
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens(tokens)},
    }


def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
    return compact(envelope("chat.completion.chunk", [choice]))


def envelope(kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
    return {
        "id": "chatcmpl-8f14e45fceea167a5a36dedd4bea2543",
        "object": kind,
        "created": 1_790_000_000,
        "model": MODEL,
        "choices": choices,
    }


def frame(event: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    data = b"data: " + event + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
