"""One adapter for each dialect: canonical requests become bodies that an endpoint reads, its answers become events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from providers.answers.fields import read_texts
from providers.answers.reader import AnswerReader
from providers.chat_request import ENGINE, LOGPROBS, SAMPLING, TOOLS, ChatRequest, Message, Reasoning, text_content
from providers.formats import prompt as json_prompt
from providers.means import UNAIDED, Enforcer, Means
from providers.profiles import DIALECTS, Dialect, Toggle
from providers.seam import Seam
from providers.thinking import CLOSE, THINKING_PROMPT, State
from providers.tools.call_reader import CallReader
from providers.tools.prompt import opening, rewrite

REASONING_KEYS = ("reasoning", "reasoning_content", "reasoning_details")
# Tokens that a chat template adds a message at most: two header tags, the role, two line breaks, the end of turn; the
# tags and line breaks around a tool's response.
TOKENS_A_MESSAGE = 24
# The template's own preamble and default system message, about 25 tokens, and room for a variant of it.
TOKENS_A_CONVERSATION = 64
# What an engine may put before a raw prompt: BOS, and room for an engine that adds more.
TOKENS_A_RAW_PROMPT = 4
# What a template says about calling tools beside their schemas, and room for a variant of it.
TOKENS_A_TOOLBOX = 512


@dataclass(frozen=True, slots=True)
class Target:
    """What an adapter knows of an endpoint: its name for the model, and its capabilities (`profiles.CAPABILITIES`)."""

    model_id: str
    supports: frozenset[str]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the exchange needs of a dialect: `means` first, then `encode`, `path`, `reader` and `emulation` by them."""

    dialect: Dialect

    def means(self, request: ChatRequest, target: Target) -> Means:
        """By what means the endpoint serves the request."""
        tools_in_prompt = "tools" not in target.supports and request.speaks_of_tools
        enforcer = self._enforcer(request, target.supports)
        if not tools_in_prompt and enforcer is None:
            return UNAIDED
        begun = tools_in_prompt and "prefix" in target.supports and not request.reasoning.enabled
        return Means(tools_in_prompt, enforcer, opening(request.tools) if begun and request.tools is not None else "")

    def encode(
        self,
        request: ChatRequest,
        target: Target,
        means: Means,
        *,
        max_tokens: int,
        stream: bool,
        seam: Seam | None = None,
        thought_only: bool = False,
    ) -> bytes:
        """The body of `POST {base_url}{path(request)}`. `max_tokens` is always sent: it bounds what can be due.

        With a `seam` the endpoint goes on with an answer that exists up to there. `thought_only`: the answer is to end
        with its thought, and what follows is asked for in a request of its own.
        """
        accepted = self.accepted(target.supports)
        body: dict[str, Any] = {"model": target.model_id}
        if request.prompt is None:
            body["messages"] = self._messages(request, means)
        else:
            body["prompt"] = request.prompt + (seam.prefix if seam else "")
        body.update((name, value) for name, value in request.parameters.items() if name in accepted)
        if thought_only or means.enforcer is Enforcer.PROMPT:
            body.pop("response_format", None)
        if thought_only:
            body["stop"] = [CLOSE]
        body["max_tokens"] = max_tokens
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
            if self.dialect.continuous_usage:
                body["stream_options"]["continuous_usage_stats"] = True
        if seam is None:
            self._ask_to_think(request.reasoning, body)
            if means.opening:
                self._continue(request.reasoning, Seam("", means.opening), body)
        elif request.prompt is None:
            self._continue(request.reasoning, seam, body)
        return orjson.dumps(body)

    def path(self, request: ChatRequest) -> str:
        """Where under the base URL the request is answered."""
        return "/chat/completions" if request.prompt is None else "/completions"

    def reader(self, *, plain: bool, seam: Seam | None = None) -> AnswerReader:
        if seam is None:
            return AnswerReader(plain=plain)
        return AnswerReader(plain=plain, starts=State.THINKING if seam.inside_thought else State.ANSWERING)

    def emulation(self, request: ChatRequest, means: Means, *, seed: str) -> CallReader | None:
        """What reads the calls in an answer's text, with ids made unique by `seed`; None where none can stand there."""
        if request.tools is None or not means.tools_in_prompt:
            return None
        return CallReader(request.tools, seed=seed, opening=means.opening)

    def _enforcer(self, request: ChatRequest, supports: frozenset[str]) -> Enforcer | None:
        """What makes the answer the JSON that the request wants; None where it wants none.

        An engine's grammar holds from the first token on, and leaves no room for a call of a tool, nor for a thought
        (vLLM 0.32, once the prompt names a thought's tags); so the thought has to come before it, in a part of its own.
        """
        if request.format is None:
            return None
        if "response_format" not in supports:
            return Enforcer.PROMPT
        engine, thinks, continues = self.dialect.engine_fields, request.reasoning.enabled, "prefix" in supports
        if request.tools is not None and (engine or "tools" not in supports):
            return Enforcer.PROMPT
        if engine:
            thinks_first = continues and request.divisible
            return Enforcer.ENGINE if thinks_first or not thinks else Enforcer.PROMPT
        return Enforcer.PROMPT if thinks and continues else Enforcer.PROVIDER

    def accepted(self, supports: frozenset[str]) -> frozenset[str]:
        """The parameters that an endpoint of this dialect takes; others are not sent."""
        accepted = SAMPLING
        if "logprobs" in supports:
            accepted |= LOGPROBS
        if "tools" in supports:
            accepted |= TOOLS
        if "response_format" in supports:
            accepted |= {"response_format"}
        if "n" in supports:
            accepted |= {"n"}
        if self.dialect.engine_fields:
            accepted |= ENGINE
        return accepted

    def capabilities(self, supports: frozenset[str]) -> frozenset[str]:
        """What an endpoint can do that `supports` this much: engines take `structured_outputs` besides."""
        return supports | {"structured_outputs"} if self.dialect.engine_fields else supports

    def lacks(self, request: ChatRequest, target: Target) -> frozenset[str]:
        """The capabilities that a request needs, that the endpoint has not, and that its prompt cannot make up for.

        Tools in the prompt do not go with a grammar: it holds from the first token on, so that no call can be written.
        """
        lacking = request.needs - self.capabilities(target.supports) - {"response_format"}
        grammar = "structured_outputs" in request.needs and request.tools is not None
        return lacking if grammar else lacking - {"tools"}

    def _ask_to_think(self, reasoning: Reasoning, body: dict[str, Any]) -> None:
        match self.dialect.toggle:
            case Toggle.REASONING_OBJECT:
                if stated := self._wish(reasoning):
                    body["reasoning"] = stated
            case Toggle.TEMPLATE_FLAG:
                if reasoning.enabled is not None:
                    kwargs = body.get("chat_template_kwargs") or {}
                    body["chat_template_kwargs"] = {**kwargs, "thinking": reasoning.enabled}
            case Toggle.SYSTEM_PROMPT:
                pass  # stands in the messages
            case _:
                assert_never(self.dialect.toggle)

    def _continue(self, reasoning: Reasoning, seam: Seam, body: dict[str, Any]) -> None:
        """Have the endpoint go on with the seam's text instead of answering the last message.

        With the flag set vLLM would take all that comes for thought, and without `keep_cots` the template would cut the
        thought out of the prefix (both as seen with 0.32 and Hermes 4's template).
        """
        body["messages"].append({"role": "assistant", "content": seam.prefix})
        if self.dialect.engine_fields:
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
            kwargs = {**(body.get("chat_template_kwargs") or {}), "thinking": False}
            if CLOSE in seam.prefix:
                kwargs["keep_cots"] = True
            body["chat_template_kwargs"] = kwargs
        if reasoning.enabled and not asks_to_think(body["messages"]) and self.dialect.toggle is Toggle.TEMPLATE_FLAG:
            body["messages"].insert(0, {"role": "system", "content": THINKING_PROMPT})

    def _wish(self, reasoning: Reasoning) -> dict[str, Any]:
        wish = {"enabled": reasoning.enabled, "effort": reasoning.effort, "max_tokens": reasoning.max_tokens}
        stated = {name: wish[name] for name in self.dialect.reasoning_fields if wish[name] is not None}
        if "max_tokens" in stated:
            stated.pop("effort", None)  # OpenRouter refuses both at once
        return stated

    def _messages(self, request: ChatRequest, means: Means) -> list[Message]:
        messages = [self._message(message) for message in request.messages]
        if means.tools_in_prompt:
            messages = rewrite(messages, request.tools)
        if request.format is not None and means.enforcer is Enforcer.PROMPT:
            messages = json_prompt.ask(messages, request.format)
        if not request.reasoning.enabled or self.dialect.toggle is Toggle.REASONING_OBJECT:
            return messages
        systems = [i for i, message in enumerate(messages) if message["role"] == "system"]
        if not systems:
            # The template flag adds the prompt itself where no system message is in its way.
            if self.dialect.toggle is Toggle.SYSTEM_PROMPT:
                messages.insert(0, {"role": "system", "content": THINKING_PROMPT})
        elif not asks_to_think(messages):
            first = messages[systems[0]]
            text = f"{THINKING_PROMPT}\n\n{text_content(first.get('content'))}"
            messages[systems[0]] = {**first, "content": text}
        return messages

    def _message(self, message: Message) -> Message:
        """An assistant's message with its earlier thoughts under this dialect's names, and its parts as one text."""
        parts = content if isinstance(content := message.get("content"), list) else None
        if message["role"] != "assistant" or (parts is None and not any(key in message for key in REASONING_KEYS)):
            return message
        kept = {key: value for key, value in message.items() if key not in REASONING_KEYS}
        if parts is not None:
            kept["content"] = text_content(parts)
        thought, _, details = read_texts(message)
        for name in self.dialect.history_fields:
            if value := details if name == "reasoning_details" else thought:
                kept[name] = value
        return kept


def prompt_ceiling_tokens(request: ChatRequest, *, emulated: bool = False) -> int:
    """A number of tokens that no endpoint's count of the prompt exceeds, with all that an adapter may add to it.

    It counts the bytes, since a token is at least one byte of text.
    `emulated`: some endpoint of the route may be told of tools in its prompt. Any may be told there of the JSON that is
    wanted, whose schema is among `prompt_bytes` already.
    """
    if request.prompt is not None:
        return TOKENS_A_RAW_PROMPT + request.prompt_bytes
    added_tokens = len(THINKING_PROMPT) + TOKENS_A_MESSAGE if request.reasoning.enabled else 0
    if request.format is not None:
        added_tokens += TOKENS_A_MESSAGE + json_prompt.extra_bytes(request.format)
    ceiling_tokens = request.prompt_bytes + TOKENS_A_MESSAGE * len(request.messages)
    ceiling_tokens += TOKENS_A_TOOLBOX if request.shown_tools is not None else 0
    if emulated and request.speaks_of_tools:
        ceiling_tokens = max(ceiling_tokens, rewritten_ceiling_tokens(request))
    return TOKENS_A_CONVERSATION + ceiling_tokens + added_tokens


def rewritten_ceiling_tokens(request: ChatRequest) -> int:
    """The same for the conversation with its tools as text, and with the beginning of the answer as a message."""
    messages: list[Message] = rewrite(request.messages, request.tools)
    if request.tools is not None and (begun := opening(request.tools)):
        messages.append({"role": "assistant", "content": begun})
    size_bytes = sum(len(message["content"].encode()) for message in messages)
    size_bytes += sum(len(orjson.dumps(message)) for message in messages if len(message) > 2)  # more than role and text
    if response_format := request.parameters.get("response_format"):
        size_bytes += len(orjson.dumps(response_format))
    return size_bytes + TOKENS_A_MESSAGE * len(messages)


def asks_to_think(messages: Sequence[Message]) -> bool:
    """Whether a system message holds the thinking prompt already."""
    return any(m["role"] == "system" and THINKING_PROMPT in text_content(m.get("content")) for m in messages)


ADAPTERS: Mapping[str, Adapter] = {name: Adapter(dialect) for name, dialect in DIALECTS.items()}
