"""When one answer is made of several parts: what allows it, where a part begins, and how long it may be.

A part follows another because a thought has used up its budget, or because an endpoint failed within the answer.
"""

from collections.abc import Sequence

from providers.chat_request import ChatRequest
from providers.means import Enforcer
from providers.profiles import Toggle
from providers.seam import Seam
from proxy.exchange.attempt import Attempt
from proxy.routing.endpoints import Endpoint
from proxy.routing.route import Candidate

# OpenRouter's shares of `max_tokens` (openrouter.ai/docs/use-cases/reasoning-tokens).
EFFORT_PERCENT = {"max": 95, "xhigh": 95, "high": 80, "medium": 50, "low": 20, "minimal": 10}


def may_go_on(request: ChatRequest, parts: Sequence[Attempt], candidate: Candidate) -> bool:
    """Whether an endpoint can go on with what there is of the answer."""
    if not request.divisible or any(part.calls for part in parts):
        return False
    if "prefix" not in candidate.endpoint.target.supports:
        return False
    # A grammar begins with the text: it can neither be taken over in the middle of it nor be left there.
    grammar = any(one.means.enforcer is Enforcer.ENGINE for one in (candidate, *(part.candidate for part in parts)))
    if grammar and any(part.said for part in parts):
        return False
    if request.shown_tools is None:
        return True
    # An engine that reads calls itself may not read them in a continued answer; where they are text, they stay text. An
    # answer that had to begin with a call was begun for the endpoint, which is not among what it said.
    inside_call = any(part.emulation is not None and part.emulation.inside_call for part in parts)
    required = request.tools is not None and request.tools.required
    return candidate.means.tools_in_prompt and not inside_call and not required


def our_limits(*, cut: bool, apart: bool) -> frozenset[str]:
    """The finish reasons that end a part and not the answer: `cut` short of its room, or the thought `apart`."""
    return frozenset(({"length"} if cut else set()) | ({"stop"} if apart else set()))


def thought_budget_tokens(request: ChatRequest, endpoint: Endpoint, max_tokens: int) -> int | None:
    """How long the thought may be, where we must see to it; None where nothing limits it, or the provider does."""
    reasoning = request.reasoning
    if not reasoning.enabled or endpoint.adapter.dialect.toggle is Toggle.REASONING_OBJECT:
        return None
    if "prefix" not in endpoint.target.supports or not request.divisible:
        return None
    if reasoning.max_tokens is not None:
        return max(reasoning.max_tokens, 1)
    if reasoning.effort in EFFORT_PERCENT:
        return max(max_tokens * EFFORT_PERCENT[reasoning.effort] // 100, 1)
    return None


def seam_after(parts: Sequence[Attempt], *, close_thought: bool) -> Seam | None:
    """Where the answer stands; None where it cannot be continued: inside a tool call."""
    if any(part.calls for part in parts):
        return None
    reasoning = b"".join(bytes(part.thought) for part in parts).decode()
    content = b"".join(bytes(part.said) for part in parts).decode()
    if close_thought and not reasoning and not content:
        reasoning = "\n"  # it was closed as soon as it was opened
    open_thought = bool(reasoning) and not content and not close_thought
    return Seam(reasoning, None if open_thought else content)


def generated_tokens(parts: Sequence[Attempt]) -> int:
    """Of the answer so far, by the providers' counts where they came."""
    return sum(max(usage.completion_tokens, 0) if (usage := part.reader.usage) else part.pieces for part in parts)
