"""The one canonical request that every surface is read into and every adapter encodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from providers.answers.fields import THOUGHTS, text_of
from providers.formats.response_format import JsonFormat, read_json_format
from providers.tools.tool_set import ToolSet, read_tool_set

Message = dict[str, Any]

# What an OpenAI-compatible engine serving this model may understand; an adapter sends those that its endpoint accepts.
SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "stop",
        "seed",
        "logit_bias",
    }
)
LOGPROBS = frozenset({"logprobs", "top_logprobs"})
TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
ENGINE = frozenset(
    {
        "stop_token_ids",
        "ignore_eos",
        "min_tokens",
        "add_special_tokens",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "structured_outputs",
        "chat_template_kwargs",
    }
)  # not `priority` nor `cache_salt`: a caller may neither jump the engine's queue nor look into another's cache

# What an engine counts or enforces over the whole of one answer; it cannot do so over a part.
WHOLE_ONLY = frozenset(
    {"logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "repetition_penalty", "structured_outputs"}
)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the caller wants of the model's thoughts.

    `enabled` None leaves it to the model. `max_tokens` limits the thought, and so does `effort`, by a share of the
    answer's limit; `exclude` keeps the thought from the caller.
    """

    enabled: bool | None = None
    effort: str | None = None
    max_tokens: int | None = None
    exclude: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be continued; with a `prompt` it has no messages, and that text is continued as it stands.

    `parameters` holds every other field of the caller's body that some endpoint may understand, under OpenAI's names
    (vLLM's where OpenAI has none); a surface has checked them. The constructor reads them once: the fields from `tools`
    on follow from those above, also after `dataclasses.replace`, and nobody looks into `parameters` for them again.
    """

    messages: Sequence[Message]
    parameters: Mapping[str, Any]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    reasoning: Reasoning
    model: str
    prompt: str | None = None
    user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    tools: ToolSet | None = field(init=False, repr=False, compare=False)
    """The tools that the model may call."""
    shown_tools: ToolSet | None = field(init=False, repr=False, compare=False)
    """The tools that a template shows to the model: also those that `tool_choice: none` forbids to call."""
    speaks_of_tools: bool = field(init=False, repr=False, compare=False)
    """There are tools, or calls of tools or their results in the history."""
    format: JsonFormat | None = field(init=False, repr=False, compare=False)
    """The JSON that the answer has to be; None where any text will do."""
    choices: int = field(init=False, repr=False, compare=False)
    """How many answers are wanted (`n`)."""
    needs: frozenset[str] = field(init=False, repr=False, compare=False)
    """The capabilities without which an endpoint cannot serve this (`profiles.CAPABILITIES`, `structured_outputs`)."""
    divisible: bool = field(init=False, repr=False, compare=False)
    """Whether an answer may be made in parts, one asked to go on where another ended."""
    prompt_bytes: int = field(init=False, repr=False, compare=False)
    """UTF-8 bytes of all text that the model will read, schemas included: a token is at least a byte."""

    def __post_init__(self) -> None:
        parameters, put = self.parameters, object.__setattr__  # the class is frozen
        shown_tools = read_tool_set(parameters)
        put(self, "shown_tools", shown_tools)
        put(self, "tools", None if parameters.get("tool_choice") == "none" else shown_tools)
        put(self, "speaks_of_tools", shown_tools is not None or any(map(tells_of_calls, self.messages)))
        put(self, "format", read_json_format(parameters))
        put(self, "choices", parameters.get("n") or 1)
        put(self, "needs", needs_of(self))
        put(self, "divisible", self.choices == 1 and not any(map(parameters.get, WHOLE_ONLY)))
        put(self, "prompt_bytes", prompt_bytes_of(self))


def needs_of(request: ChatRequest) -> frozenset[str]:
    needed = []
    if request.prompt is not None:
        needed.append("completions")
    if request.shown_tools is not None:
        needed.append("tools")
    if request.format is not None:
        needed.append("response_format")
    if request.parameters.get("structured_outputs"):
        needed.append("structured_outputs")
    logprobs = request.parameters.get("logprobs")  # for a raw prompt it is a number, and zero asks for them, too
    if logprobs or type(logprobs) is int or request.parameters.get("top_logprobs"):
        needed.append("logprobs")
    if request.choices > 1:
        needed.append("n")
    return frozenset(needed)


def prompt_bytes_of(request: ChatRequest) -> int:
    if request.prompt is not None:
        return len(request.prompt.encode())
    schemas = (request.parameters[name] for name in ("tools", "response_format") if name in request.parameters)
    return sum(map(message_bytes, request.messages)) + sum(len(orjson.dumps(schema)) for schema in schemas)


def message_bytes(message: Message) -> int:
    """The bytes of all that the model reads of a message: text, thoughts, names, calls."""
    content = message.get("content")
    if type(content) is str and len(message) == 2:  # and the role
        return len(content.encode())
    return len(orjson.dumps(message))


def tells_of_calls(message: Message) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def text_content(content: Any) -> str:
    """The text of a message's content, which is a string, a list of parts or None; without its thoughts."""
    if type(content) is list:
        said = (part for part in content if part.get("type") not in THOUGHTS)
        return "\n".join(text_of(part.get("text") or part.get("refusal")) for part in said)
    return content or ""
