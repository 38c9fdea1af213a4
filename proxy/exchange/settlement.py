"""From what attempts delivered to what is booked and shown: pure functions over their reports.

The provider's count of tokens is the basis. Our own is taken exactly, with the tokenizer, only where it decides:
`quick_count` says when it does not, `count_exactly` takes it. The rule for believing a count is `billing.excessive`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import orjson

from ledger.billing import Bill, Delivery, Ending, Tokens, UsageSource, excessive
from ledger.money import format_usd
from providers.chat_request import ChatRequest
from providers.events import FailureKind, Usage
from providers.tokenizer import count_request, count_text
from proxy.exchange.meter import AttemptReport
from proxy.routing.endpoints import Endpoint

# Easy English prose has up to 5.2 bytes a token with this tokenizer, other texts have fewer. With less here the rule's
# 10 % would begin above our own count; with more, honest counts of prose would be counted again.
BYTES_A_TOKEN = 5.25
CONVERSATION_TOKENS = 5  # what a template adds at least to a conversation
MESSAGE_TOKENS = 5  # and to each of its messages
TOOLS_TOKENS = 200  # what our own count has at least beside the schemas of tools
FORMAT_TOKENS = 24  # and beside the schema of an answer


@dataclass(frozen=True, slots=True)
class Counted:
    """Our own count of an attempt's prompt and of what it delivered."""

    tokens: Tokens
    exactly: bool


def how_it_ended(report: AttemptReport, *, client_left: bool) -> Ending:
    if report.repairs:
        return Ending.REPAIR if report.failure is None else Ending.FAILED
    if report.failure is not None:
        return Ending.PROVIDER_CUT if report.delivered else Ending.FAILED
    if not client_left:
        return Ending.COMPLETE
    asked = report.connected and report.status in (None, 200)
    return Ending.CLIENT_LEFT if asked else Ending.FAILED


def quick_count(report: AttemptReport, chat: ChatRequest, ending: Ending) -> Counted | None:
    """Our count where it costs nothing: none of what failed, the provider's own where it is plainly believable.

    None: it must be taken exactly.
    """
    if ending is Ending.FAILED:
        return Counted(Tokens(0), exactly=True)
    usage = report.usage
    if usage is None or not believable(usage, report, chat):
        return None
    reasoning = min(report.reading.reasoning_pieces, usage.completion_tokens)
    return Counted(Tokens(usage.prompt_tokens, 0, usage.completion_tokens, reasoning), exactly=False)


def believable(usage: Usage, report: AttemptReport, chat: ChatRequest) -> bool:
    """Whether what the provider reported is not above the least that our own count can be expected to say."""
    shown = report.reading.text_bytes
    if usage.prompt_tokens <= 0 or usage.completion_tokens < 0 or (usage.completion_tokens == 0 and shown):
        return False
    least = least_expected(report, chat)
    return not (excessive(usage.prompt_tokens, least.prompt) or excessive(usage.completion_tokens, least.completion))


def least_expected(report: AttemptReport, chat: ChatRequest) -> Tokens:
    """An estimate, low on purpose, of what our own count would say. A piece of an answer is a token or more."""
    prompt = (chat.prompt_bytes + len(report.added_prompt)) / BYTES_A_TOKEN
    prompt += 0 if chat.prompt is not None else CONVERSATION_TOKENS + MESSAGE_TOKENS * len(chat.messages)
    prompt += TOOLS_TOKENS if chat.shown_tools is not None else 0
    prompt += FORMAT_TOKENS if chat.format is not None else 0
    completion = max(report.reading.pieces, report.reading.text_bytes / BYTES_A_TOKEN)
    return Tokens(int(prompt), completion=int(completion))


def count_exactly(report: AttemptReport, chat: ChatRequest) -> Counted:
    """With the tokenizer: about 2 ms for 8,000 bytes."""
    reading = report.reading
    completion = count_text(reading.text.decode("utf-8", "replace"))
    reasoning = round(completion * reading.reasoning_pieces / reading.pieces) if reading.pieces else 0
    prompt = count_request(chat) + count_text(report.added_prompt)
    return Counted(Tokens(prompt, 0, completion, reasoning), exactly=True)


def delivery(report: AttemptReport, counted: Counted, *, client_left: bool) -> Delivery:
    """The attempt as `ledger.billing` prices it."""
    candidate, endpoint = report.candidate, report.candidate.endpoint
    return Delivery(
        endpoint=endpoint.name,
        provider=endpoint.provider,
        sandbox=endpoint.sandbox,
        sell=candidate.sell,
        buy=candidate.buy,
        reported=reported_tokens(report, counted.tokens),
        reported_source=reported_source(report, client_left=client_left),
        counted=counted.tokens,
        counted_exactly=counted.exactly,
        ending=how_it_ended(report, client_left=client_left),
        hidden_reasoning=endpoint.hidden_reasoning,
        cost_unknown=cost_unknown(report),
    )


def reported_tokens(report: AttemptReport, counted: Tokens) -> Tokens | None:
    """What the provider reported; where it does not say how much was reasoning, our share of it.

    An engine that goes on from a beginning does not know what of it is a thought, and reports none.
    """
    usage = report.usage
    if usage is None:
        return None
    reasoning = usage.reasoning_tokens
    if reasoning is None or report.continues:
        reasoning = min(counted.reasoning, max(usage.completion_tokens, 0))
    return Tokens(usage.prompt_tokens, usage.cached_tokens or 0, usage.completion_tokens, reasoning)


def reported_source(report: AttemptReport, *, client_left: bool) -> UsageSource:
    """A count that came with the end is the provider's last word; one from before is as good as it had got."""
    whole = report.failure is None and (report.done or not client_left)
    return UsageSource.PROVIDER if whole else UsageSource.CONTINUOUS


def cost_unknown(report: AttemptReport) -> bool:
    """Whether the provider has worked, or may have, and did not say how much."""
    if report.usage is not None or report.failure is None:
        return False
    return report.committed or report.failure.kind in (FailureKind.TIMEOUT, FailureKind.STALLED, FailureKind.CUT)


def tokens_so_far(report: AttemptReport, chat: ChatRequest, prompt_tokens: int) -> Tokens:
    """What a checkpoint keeps of a running attempt: the provider's count where it is believable, else pieces.

    `prompt_tokens` is our estimate of the prompt.
    """
    usage = report.usage
    if usage is None or not believable(usage, report, chat):
        return Tokens(prompt_tokens, completion=report.reading.pieces)
    return Tokens(usage.prompt_tokens, completion=usage.completion_tokens)


# What is stored and shown


def state_of(reports: Sequence[AttemptReport], *, client_left: bool, failed: bool) -> str:
    """The state of the request in the ledger: completed, client_left, cut (some was delivered) or failed."""
    if client_left:
        return "client_left"
    if not failed:
        return "completed"
    last = next((report for report in reversed(reports) if not report.repairs), None)
    return "cut" if last is not None and last.delivered else "failed"


def delivering_attempt(reports: Sequence[AttemptReport]) -> AttemptReport | None:
    """The one whose endpoint the request is booked under: the first that delivered, else the last."""
    last = next((report for report in reversed(reports) if not report.repairs), None)
    return next((report for report in reports if report.delivered), last)


def attempts_shown(reports: Sequence[AttemptReport]) -> list[dict[str, Any]]:
    """For the tenant and the ledger: which endpoint, how it ended, how long it took. No upstream message.

    `streamed`: to the client, whichever way it came.
    """
    return [
        {
            "endpoint": report.candidate.endpoint.name,
            "status": report.status,
            "failure": report.failure.kind.value if report.failure else None,
            "finish_reason": report.finish_reason,
            "streamed": report.streamed,
            "first_content_ms": elapsed_ms(report.started_s, report.first_content_s),
            "total_ms": elapsed_ms(report.started_s, report.ended_s),
            **({"repair": True} if report.repairs else {}),
        }
        for report in reports
    ]


def answer_headers(reports: Sequence[AttemptReport], started_s: float, now_s: float) -> dict[str, str]:
    """Which endpoint answers, after how many attempts, and whose time it took, as of `now_s`."""
    endpoint: Endpoint = reports[-1].candidate.endpoint
    upstream_ms = sum(elapsed_ms(report.started_s, report.first_content_s or report.ended_s) or 0 for report in reports)
    ours_ms = max(elapsed_ms(started_s, now_s) - upstream_ms, 0)
    headers = {
        "x-caduceus-endpoint": endpoint.name,
        "x-caduceus-attempts": str(len(reports)),
        "server-timing": f"gateway;dur={ours_ms}, upstream;dur={upstream_ms}",
        "cache-control": "no-store",
    }
    if endpoint.region:
        headers["x-caduceus-region"] = endpoint.region
    return headers


def usage_shown(bill: Bill) -> dict[str, Any]:
    """The usage billed, as OpenAI and OpenRouter word it. The cost is the exact decimal."""
    tokens = bill.tokens
    prompt_pusd = sum(
        (line.tokens.prompt - line.tokens.cached) * line.price.input_pusd
        + line.tokens.cached * line.price.cached_input_pusd
        for line in bill.lines
    )
    completion_pusd = sum(line.tokens.completion * line.price.output_pusd for line in bill.lines)
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "cost": number(bill.charge_pusd),
        "cost_details": {"prompt": number(prompt_pusd), "completion": number(completion_pusd)},
    }


def number(pusd: int) -> orjson.Fragment:
    """An amount in USD as a JSON number, to the last digit."""
    return orjson.Fragment(format_usd(pusd).encode())


@overload
def elapsed_ms(start_s: float, end_s: float) -> int: ...
@overload
def elapsed_ms(start_s: float, end_s: float | None) -> int | None: ...
def elapsed_ms(start_s: float, end_s: float | None) -> int | None:
    """Milliseconds between two instants in seconds; None where the second has not come."""
    return None if end_s is None else round((end_s - start_s) * 1_000)
