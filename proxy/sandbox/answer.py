"""The pretended model: what it answers is a pure function of the conversation, so any beginning can be continued."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from proxy.sandbox.dialects import DIALECTS, Refusal
from proxy.sandbox.examples import example
from proxy.sandbox.request import Ask, Tool
from proxy.sandbox.script import ReasoningShape, Script
from proxy.sandbox.tokens import pieces

MOST_ECHOED_CHARACTERS = 400
OPEN, CLOSE = "<think>", "</think>"
INLINE: tuple[ReasoningShape, ...] = ("inline", "inline_no_opener")


class Kind(Enum):
    REASONING = "reasoning"
    CONTENT = "content"
    CALL = "call"  # the beginning of a native tool call
    ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer; `call` is the index of the tool call that it belongs to."""

    kind: Kind
    text: str
    call: int = 0


Part = tuple[Kind, str, int]  # kind, text, index of the tool call


@dataclass(frozen=True, slots=True)
class Call:
    digest: str  # of the call's position, name and arguments; ids are made from it
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    finish_reason: str
    stop_reason: str | None = None

    def text(self, kind: Kind, call: int = 0) -> str:
        return "".join(token.text for token in self.tokens if token.kind is kind and token.call == call)

    def count(self, kind: Kind) -> int:
        return sum(token.kind is kind for token in self.tokens)

    def inline_thought_tokens(self) -> int:
        """How many tokens stand between an opening tag at the very beginning and the closing tag."""
        if not self.tokens or not self.tokens[0].text.startswith(OPEN):
            return 0
        closed = next((i for i, token in enumerate(self.tokens) if CLOSE in token.text), len(self.tokens))
        return max(closed - 1, 0)


def compose(ask: Ask, speaker: str, script: Script, shape: ReasoningShape) -> list[Choice]:
    """The answers to `ask`, spoken by the dialect `speaker`. Raises Refusal for a tool that was not offered."""
    chosen = chosen_tools(ask, script)
    calls = tuple(make_call(tool, ask, i) for i, tool in enumerate(chosen))
    return [choice(ask, speaker, script, shape, calls, index=i) for i in range(ask.choices)]


def choice(
    ask: Ask, speaker: str, script: Script, shape: ReasoningShape, calls: tuple[Call, ...], *, index: int
) -> Choice:
    thought = thoughts(ask, script) if ask.thinks else ""
    if calls and not ask.native_tools:
        content = "\n".join(map(call_text, calls))
    else:
        content = "" if calls else spoken(ask, speaker, script, index)
    native = calls if ask.native_tools else ()
    tagged = inline(thought, content) if thought else content
    if ask.prefix is not None:
        said = [tagged, content, *(spoken(ask, other, script, index) for other in DIALECTS)]
        said += [inline(thoughts(ask, script), text) for text in said[1:]]
        parts = continued(remainder(ask.prefix, said), shape, ask)
        return cut(ask, parts, (), stop_first=True)
    parts = [(Kind.REASONING, thought, 0), (Kind.CONTENT, content, 0)]
    if thought and (ask.raw or shape in INLINE):
        parts = [(Kind.CONTENT, tagged if shape != "inline_no_opener" else tagged.removeprefix(OPEN), 0)]
    for i, call in enumerate(native):
        parts += [(Kind.CALL, call.name, i), (Kind.ARGUMENTS, call.arguments, i)]
    return cut(ask, parts, native, stop_first=not native)


def cut(ask: Ask, parts: Iterable[Part], calls: tuple[Call, ...], *, stop_first: bool) -> Choice:
    """Apply `stop` and `max_tokens`, as an engine does: to thoughts and text alike."""
    tokens: list[Token] = []
    finish, stopped_by = ("tool_calls" if calls else "stop"), None
    for kind, text, call in parts:
        if stop_first and (found := earliest(text, ask.stops)):
            text, stopped_by = text[: found[0]], found[1]
        made = [text] if kind is Kind.CALL else pieces(text)
        tokens += [Token(kind, piece, call) for piece in made]
        if stopped_by is not None:
            break
    if ask.max_tokens is not None and len(tokens) + (stopped_by is None) > ask.max_tokens:  # the end is a token, too
        tokens, finish, stopped_by = tokens[: ask.max_tokens], "length", None
    begun = sum(token.kind is Kind.CALL for token in tokens)
    return Choice(tuple(tokens), calls[:begun], finish, stopped_by)


def earliest(text: str, stops: Iterable[str]) -> tuple[int, str] | None:
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found) if found else None


def thoughts(ask: Ask, script: Script) -> str:
    text = script.reasoning
    if text is None:
        text = (
            f"\nThe user's words are {len(ask.said.split())} in number. I am a sandbox and only pretend to think: "
            "I shall say who I am and repeat what I was told.\n"
        )
    return "".join(pieces(text)[: ask.thought_limit_tokens])


def spoken(ask: Ask, speaker: str, script: Script, index: int) -> str:
    if script.text is not None:
        text = script.text
    elif ask.json_schema is not None:
        return as_json(ask.json_schema, ask, speaker)
    else:
        line_break = "\n" if ask.thinks else ""  # between a thought and its answer, as the model writes it
        echo = ask.said[:MOST_ECHOED_CHARACTERS] + ("…" if len(ask.said) > MOST_ECHOED_CHARACTERS else "")
        heard = f"The tool answered: {echo}" if ask.said_by_tool else f"You said: {echo or 'nothing.'}"
        text = (
            f"{line_break}This is the Caduceus sandbox speaking as {speaker}. {heard} "
            "No model wrote this: the same question always gets the same answer."
        )
        if index:
            text += f" This is choice {index + 1}."
    return text if script.tokens is None else of_length(text, script.tokens)


def of_length(text: str, tokens: int) -> str:
    """`text` cut to `tokens`, or lengthened with ascending numbers, which show a loss or a repetition."""
    words = pieces(text)
    words += [f" {i}" for i in range(1, tokens - len(words) + 1)]
    return "".join(words[:tokens])


def as_json(schema: Any, ask: Ask, speaker: str) -> str:
    said = ask.said[:MOST_ECHOED_CHARACTERS]
    value = example(schema, said) if schema else {"sandbox": speaker, "you_said": said}
    return json.dumps(value, ensure_ascii=False)


def inline(thought: str, content: str) -> str:
    """The model's own notation, as it comes out of an engine without a parser."""
    return f"{OPEN}{thought}{CLOSE}{content}"


def continued(rest: str, shape: ReasoningShape, ask: Ask) -> list[Part]:
    """The rest of an answer as vLLM's parser splits it: with the flag set, all up to the closing tag is a thought."""
    if shape in INLINE or ask.raw or not ask.flagged:
        return [(Kind.CONTENT, rest, 0)]
    thought, _, content = rest.partition(CLOSE)
    return [(Kind.REASONING, thought, 0), (Kind.CONTENT, content, 0)]


def remainder(prefix: str, said: Iterable[str]) -> str:
    """What follows `prefix` in the first of the possible answers `said` that begins with it."""
    texts = [form for text in said for form in (text, text.lstrip())]
    for text in texts:
        if text.startswith(prefix):
            return text[len(prefix) :]
    return f" {texts[0]}"


def chosen_tools(ask: Ask, script: Script) -> list[Tool]:
    """The tools that the user names, else the first one; none where the user does not ask for a tool."""
    wanted = ask.tool_choice
    if not ask.tools or script.tool_call is False or wanted == "none":
        return []
    if isinstance(wanted, dict):
        name = (wanted.get("function") or wanted).get("name")
        tools = [tool for tool in ask.tools if tool.name == name]
        if not tools:
            raise Refusal(400, "bad_request", f"tool_choice: the tool {name!r} is not among the tools", "tool_choice")
        return tools[:1]
    named = [tool for tool in ask.tools if tool.name in ask.said]
    forced = wanted == "required" or script.tool_call
    if not forced and (ask.said_by_tool or not (named or "tool" in ask.said.lower())):
        return []
    named = named or list(ask.tools[:1])
    return named if ask.parallel_calls else named[:1]


def make_call(tool: Tool, ask: Ask, index: int) -> Call:
    arguments = json.dumps(
        example(tool.parameters or {"type": "object"}, ask.said[:MOST_ECHOED_CHARACTERS]), ensure_ascii=False
    )
    digest = hashlib.sha256(f"{ask.turns}/{index}/{tool.name}/{arguments}".encode()).hexdigest()
    return Call(digest[:16], tool.name, arguments)


def call_text(call: Call) -> str:
    """Hermes's notation of a call."""
    return f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
