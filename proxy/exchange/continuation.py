"""When one answer is made of several parts: what allows it, where a part begins, and how long it may be.

A part follows another because a thought has used up its limit, or because an endpoint failed within the answer. All of
this is pure: reports of the parts in, decisions out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from providers.chat_request import ChatRequest
from providers.means import Enforcer
from providers.profiles import Toggle
from providers.seam import Seam
from proxy.exchange.meter import AttemptReport
from proxy.routing.endpoints import Endpoint
from proxy.routing.route import Candidate

# OpenRouter's shares of `max_tokens` (openrouter.ai/docs/use-cases/reasoning-tokens).
EFFORT_PERCENT = {"max": 95, "xhigh": 95, "high": 80, "medium": 50, "low": 20, "minimal": 10}


@dataclass(frozen=True, slots=True)
class Part:
    """What the next attempt is asked for.

    `thought_only`: a thought, whose answer is asked for apart. `our_limits` are the finish reasons that end this part
    and not the answer.
    """

    output_tokens: int
    seam: Seam | None
    thought_only: bool
    our_limits: frozenset[str]


def next_part(
    chat: ChatRequest, candidate: Candidate, parts: Sequence[AttemptReport], seam: Seam | None, output_tokens: int
) -> Part:
    """`parts` are those before it, `output_tokens` what is left for all that follow."""
    limit_tokens = thought_limit_tokens(chat, candidate.endpoint, output_tokens) if seam is None else None
    part_tokens = output_tokens if limit_tokens is None else min(limit_tokens, output_tokens)
    thinks = bool(chat.reasoning.enabled) and (seam is None or seam.inside_thought) and not thought_is_over(parts)
    thought_only = thinks and candidate.means.enforcer is Enforcer.ENGINE
    limits = ({"length"} if part_tokens < output_tokens else set()) | ({"stop"} if thought_only else set())
    return Part(part_tokens, (seam or Seam("", None)) if thought_only else seam, thought_only, frozenset(limits))


def thought_is_over(parts: Sequence[AttemptReport]) -> bool:
    """Whether a part of this answer was the thought before it."""
    return any(part.cut_short for part in parts)


def may_go_on(chat: ChatRequest, parts: Sequence[AttemptReport], candidate: Candidate) -> bool:
    """Whether an endpoint can go on with what there is of the answer."""
    if not chat.divisible or any(part.reading.calls for part in parts):
        return False
    if "prefix" not in candidate.endpoint.target.supports:
        return False
    # A grammar begins with the text: it can neither be taken over in the middle of it nor be left there.
    grammar = any(each.means.enforcer is Enforcer.ENGINE for each in (candidate, *(part.candidate for part in parts)))
    if grammar and any(part.reading.content for part in parts):
        return False
    if chat.shown_tools is None:
        return True
    # An engine that reads calls itself may not read them in a continued answer; where they are text, they stay text. An
    # answer that had to begin with a call was begun for the endpoint, which is not among what it said.
    inside_call = bool(parts) and parts[-1].inside_call
    must_call = chat.tools is not None and chat.tools.required
    return candidate.means.tools_in_prompt and not inside_call and not must_call


def thought_limit_tokens(chat: ChatRequest, endpoint: Endpoint, output_tokens: int) -> int | None:
    """How long the thought may be, where we must see to it; None where nothing limits it, or the provider does."""
    reasoning = chat.reasoning
    if not reasoning.enabled or endpoint.adapter.dialect.toggle is Toggle.REASONING_OBJECT:
        return None
    if "prefix" not in endpoint.target.supports or not chat.divisible:
        return None
    if reasoning.max_tokens is not None:
        return max(reasoning.max_tokens, 1)
    if reasoning.effort in EFFORT_PERCENT:
        return max(output_tokens * EFFORT_PERCENT[reasoning.effort] // 100, 1)
    return None


def seam_after(parts: Sequence[AttemptReport], *, close_thought: bool) -> Seam | None:
    """Where the answer stands; None where it cannot be continued: inside a tool call."""
    if any(part.reading.calls for part in parts):
        return None
    reasoning = b"".join(part.reading.reasoning for part in parts).decode()
    content = b"".join(part.reading.content for part in parts).decode()
    if close_thought and not reasoning and not content:
        reasoning = "\n"  # it was closed as soon as it was opened
    open_thought = bool(reasoning) and not content and not close_thought
    return Seam(reasoning, None if open_thought else content)


def generated_tokens(parts: Sequence[AttemptReport]) -> int:
    """Of the answer so far, by the providers' counts where they came."""
    return sum(part.generated_tokens for part in parts)
