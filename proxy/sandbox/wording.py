"""One answer in one dialect's words: chunks of a stream, the body of a plain answer, errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from proxy.sandbox.answer import Call, Choice, Kind, Token
from proxy.sandbox.dialects import Dialect, Json, Refusal, openai_error, vllm_error
from proxy.sandbox.request import Ask
from proxy.sandbox.script import ReasoningShape, UsageMode

DONE = b"data: [DONE]\n\n"
LOGPROB = -0.125
ABSURD = 10**12
FINGERPRINT = "caduceus-sandbox"


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Wording:
    """How one answer is worded. `raw`: for `/completions`, where a choice has a `text` in place of a message."""

    dialect: Dialect
    shape: ReasoningShape
    answer_id: str
    created: int
    model: str
    raw: bool = False
    top_logprobs: int | None = None

    def role_chunk(self, index: int, usage: Json | None) -> bytes | None:
        """The preamble of a choice. OpenRouter has none: the role is in every chunk."""
        if self.raw or self.dialect.routes:
            return None
        chunk = self._envelope([self._choice(index, {"role": "assistant", "content": ""})], usage)
        return event(chunk | {"prompt_token_ids": None, "prompt_text": None} if self.dialect.engine else chunk)

    def token_chunk(
        self, index: int, token: Token, choice: Choice, usage: Json | None, *, last: bool = False
    ) -> bytes | None:
        """The event of one token, with the finish reason if it is the `last`; None where the token is not shown."""
        finish, stop_reason = (choice.finish_reason, choice.stop_reason) if last else (None, None)
        if self.raw:
            return event(self._envelope([self._text_choice(index, token.text, finish, stop_reason)], usage))
        delta = self._delta(token, choice.calls)
        if delta is None and not last:
            return None
        worded = self._choice(index, delta or {}, finish, stop_reason)
        if self.dialect.engine:
            worded["token_ids"] = None
        if self.top_logprobs is not None:
            worded["logprobs"] = {"content": [self._logprob(token.text)]}
        return event(self._envelope([worded], usage))

    def finish_chunk(self, index: int, choice: Choice, usage: Json | None) -> bytes:
        if self.raw:
            worded = self._text_choice(index, "", choice.finish_reason, choice.stop_reason)
        else:
            worded = self._choice(index, {}, choice.finish_reason, choice.stop_reason)
        chunk = self._envelope([worded], usage)
        return event(chunk | {"system_fingerprint": FINGERPRINT} if self.dialect.engine else chunk)

    def usage_chunk(self, usage: Json) -> bytes:
        choices = [self._choice(0, {})] if self.dialect.routes else []
        return event(self._envelope(choices, usage))

    def error_event(self, refusal: Refusal) -> bytes:
        """An error in a stream that began with 200, and what follows it; a router words it itself, else the engine."""
        if not self.dialect.routes:
            ending = DONE if self.dialect.engine else b""
            error = openai_error if self.dialect.name == "openai" else vllm_error
            return event(error(refusal, self.answer_id)) + ending
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": "error"}
        return event(self._envelope([choice]) | {"error": {"code": refusal.status, "message": refusal.message}})

    def choice_error(self, refusal: Refusal, *, stream: bool) -> Json:
        part = {"delta" if stream else "message": {"role": "assistant", "content": ""}}
        error = {"code": refusal.status, "message": refusal.message}
        return self._envelope([{"index": 0, **part, "finish_reason": "error", "error": error}], stream=stream)

    def error_body(self, refusal: Refusal) -> bytes:
        return orjson.dumps(self.dialect.error(refusal, self.answer_id))

    def plain_body(self, choices: Sequence[Choice], usage: Json | None) -> Json:
        worded = [self._plain_choice(i, choice) for i, choice in enumerate(choices)]
        body = self._envelope(worded, usage, stream=False)
        if usage and self.dialect.name == "aimlapi":
            tokens = usage["prompt_tokens"] + 3 * usage["completion_tokens"]
            body["meta"] = {"usage": {"credits_used": math.ceil(2 * tokens)}}  # 2 million credits a dollar
        return body

    def _envelope(self, choices: list[Json], usage: Json | None = None, *, stream: bool = True) -> Json:
        chat = "chat.completion.chunk" if stream else "chat.completion"
        body: Json = {"id": self.answer_id}
        if self.dialect.routes:
            body["provider"] = "Sandbox"
        body |= {
            "object": "text_completion" if self.raw else chat,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if usage is not None:
            body["usage"] = usage
        return body

    def _choice(self, index: int, delta: Json, finish: str | None = None, stop_reason: str | None = None) -> Json:
        choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        if self.dialect.routes:
            choice["delta"] = {"role": "assistant", "content": ""} | delta
            choice["native_finish_reason"] = finish
        if self.dialect.engine and finish:
            choice["stop_reason"] = stop_reason
        return choice

    def _text_choice(self, index: int, text: str, finish: str | None = None, stop_reason: str | None = None) -> Json:
        choice: Json = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        if self.dialect.engine:
            choice["stop_reason"] = stop_reason
        return choice

    def _delta(self, token: Token, calls: Sequence[Call]) -> Json | None:
        match token.kind:
            case Kind.CONTENT:
                return {"content": token.text}
            case Kind.REASONING:
                return self._thought(token.text)
            case Kind.CALL:
                function = {"name": token.text, "arguments": ""}
                call = {
                    "index": token.call,
                    "id": self.dialect.call_id(calls[token.call].digest),
                    "type": "function",
                    "function": function,
                }
                return {"tool_calls": [call]}
            case Kind.ARGUMENTS:
                return {"tool_calls": [{"index": token.call, "function": {"arguments": token.text}}]}
            case _:
                assert_never(token.kind)

    def _thought(self, text: str) -> Json | None:
        match self.shape:
            case "reasoning":
                return {"reasoning": text}
            case "reasoning_content":
                return {"reasoning_content": text}
            case "both":
                return {"reasoning": text, "reasoning_content": text}
            case "details":
                detail = {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}
                return {"reasoning": text, "reasoning_details": [detail]}
            case "inline" | "inline_no_opener" | "hidden":
                return None
            case _:
                assert_never(self.shape)

    def _logprob(self, text: str) -> Json:
        token: Json = {"token": text, "logprob": LOGPROB, "bytes": list(text.encode())}
        return token | {"top_logprobs": [token] if self.top_logprobs else []}

    def _plain_choice(self, index: int, choice: Choice) -> Json:
        finish, content = choice.finish_reason, choice.text(Kind.CONTENT)
        if self.raw:
            return self._text_choice(index, content, finish, choice.stop_reason)
        message: Json = {"role": "assistant", "content": content or (None if choice.tokens else "")}
        if self.dialect.engine:
            message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        if thought := choice.text(Kind.REASONING):
            message |= self._thought(thought) or {}
        elif self.dialect.engine:
            message["reasoning"] = None
        if choice.calls:
            message["tool_calls"] = [self._plain_call(choice, i, call) for i, call in enumerate(choice.calls)]
        worded: Json = {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
        if self.top_logprobs is not None:
            worded["logprobs"] = {"content": [self._logprob(token.text) for token in choice.tokens]}
        if self.dialect.routes:
            worded["native_finish_reason"] = finish
        if self.dialect.engine:
            worded["stop_reason"] = choice.stop_reason
        return worded

    def _plain_call(self, choice: Choice, index: int, call: Call) -> Json:
        function = {"name": call.name, "arguments": choice.text(Kind.ARGUMENTS, index)}
        return {"id": self.dialect.call_id(call.digest), "type": "function", "function": function}


def reported_usage(dialect: Dialect, mode: UsageMode, ask: Ask, completion: int, reasoning: int) -> Json:
    """The usage in the dialect's words: the true counts of tokens, or wrong ones where the script asks for them."""
    usage: Mapping[str, int] = {
        "prompt": ask.prompt_tokens,
        "completion": completion,
        "cached": ask.cached_tokens,
        "reasoning": reasoning,
    }
    match mode:
        case "zero":
            usage = dict.fromkeys(usage, 0)
        case "negative":
            usage = {**usage, "prompt": -1, "completion": -completion - 1}
        case "absurd":
            usage = {**usage, "completion": ABSURD}
        case "inflated":
            usage = {**usage, "completion": 2 * completion + 50}
        case "normal" | "missing" | "twice" | "every_chunk":
            pass  # these change whether and how often usage is sent, not what it says
        case _:
            assert_never(mode)
    return dialect.usage(usage)
