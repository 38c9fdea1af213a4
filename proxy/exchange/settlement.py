"""From what the attempts delivered to what is booked: our own counts, the bill, the row of the ledger.

The provider's count is the basis; ours is taken exactly (with the tokenizer, off the event loop) only where it decides.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from ledger.billing import Bill, Delivery, Ending, Tokens, UsageSource, bill
from ledger.money import format_usd
from providers.chat_request import ChatRequest
from providers.events import FailureKind, Usage
from providers.tokenizer import count_request, count_text, is_loaded
from proxy.exchange.attempt import Attempt

# English prose is 4.5 bytes a token with this tokenizer; a claim below this estimate needs no second look.
BYTES_A_TOKEN = 4.0
SLACK_TOKENS = 20
TOOLBOX_TOKENS = 200  # what our own count has at least beside the schemas of tools
FORMAT_TOKENS = 24  # and beside the schema of an answer
SMALL_TEXT_BYTES = 2_000  # counted on the spot; more is counted in a thread


async def settle_bill(attempts: Sequence[Attempt], request: ChatRequest, hold_pusd: int, *, client_left: bool) -> Bill:
    """What is due for the attempts of one exchange, in order."""
    deliveries = [await delivery(attempt, request, client_left=client_left) for attempt in attempts]
    return bill(deliveries, hold_pusd)


async def delivery(attempt: Attempt, request: ChatRequest, *, client_left: bool) -> Delivery:
    endpoint = attempt.candidate.endpoint
    claim = attempt.reader.usage
    ending = how_it_ended(attempt, client_left=client_left)
    if ending is Ending.FAILED:
        counted, exactly = Tokens(0), True
    else:
        counted, exactly = await count(attempt, request, claim)
    return Delivery(
        endpoint=endpoint.name,
        provider=endpoint.provider,
        sandbox=endpoint.sandbox,
        sell=attempt.candidate.sell,
        buy=attempt.candidate.buy,
        claimed=tokens_of(claim, counted, continued=attempt.seam is not None),
        claimed_source=claimed_source(attempt, client_left=client_left),
        counted=counted,
        counted_exactly=exactly,
        ending=ending,
        hidden_reasoning=endpoint.hidden_reasoning,
        cost_unknown=cost_unknown(attempt),
    )


def claimed_source(attempt: Attempt, *, client_left: bool) -> UsageSource:
    """A count that came with the end is the provider's last word; one from before is as good as it had got."""
    whole = attempt.failure is None and (attempt.reader.done or not client_left)
    return UsageSource.PROVIDER if whole else UsageSource.CONTINUOUS


def how_it_ended(attempt: Attempt, *, client_left: bool) -> Ending:
    if attempt.repairs:
        return Ending.REPAIR if attempt.failure is None else Ending.FAILED
    if attempt.failure is not None:
        return Ending.PROVIDER_CUT if attempt.delivered else Ending.FAILED
    if not client_left:
        return Ending.COMPLETE
    asked = attempt.connection is not None and attempt.status in (None, 200)
    return Ending.CLIENT_LEFT if asked else Ending.FAILED


def cost_unknown(attempt: Attempt) -> bool:
    """The provider has worked, or may have, and did not say how much."""
    if attempt.reader.usage is not None or attempt.failure is None:
        return False
    return attempt.committed or attempt.failure.kind in (FailureKind.TIMEOUT, FailureKind.STALLED, FailureKind.CUT)


def tokens_of(claim: Usage | None, counted: Tokens, *, continued: bool = False) -> Tokens | None:
    """The provider's claim; where it does not say how much was reasoning, our share of it.

    An engine that goes on from a beginning does not know what of it is a thought, and says none.
    """
    if claim is None:
        return None
    reasoning = claim.reasoning_tokens
    if reasoning is None or continued:
        reasoning = min(counted.reasoning, max(claim.completion_tokens, 0))
    return Tokens(claim.prompt_tokens, claim.cached_tokens or 0, claim.completion_tokens, reasoning)


async def count(attempt: Attempt, request: ChatRequest, claim: Usage | None) -> tuple[Tokens, bool]:
    """Our own count, and whether it is exact. Cheap where the claim is plainly believable."""
    believed = claim is not None and believable(claim, attempt, request)
    if believed:
        assert claim is not None
        reasoning = min(attempt.reasoning_pieces, claim.completion_tokens)
        return Tokens(claim.prompt_tokens, 0, claim.completion_tokens, reasoning), False
    size = attempt.text_bytes + request.prompt_bytes + len(attempt.added)
    if size <= SMALL_TEXT_BYTES and is_loaded():
        return count_exactly(attempt, request), True
    return await asyncio.to_thread(count_exactly, attempt, request), True


def believable(claim: Usage, attempt: Attempt, request: ChatRequest) -> bool:
    """Within 10 % and 20 tokens of the least that our own count can be expected to say: a piece is a token or more."""
    if claim.prompt_tokens <= 0 or claim.completion_tokens < 0 or (claim.completion_tokens == 0 and attempt.text_bytes):
        return False
    least_completion = max(attempt.pieces, attempt.text_bytes / BYTES_A_TOKEN)
    least_prompt = request.prompt_bytes / BYTES_A_TOKEN + 20 + 5 * len(request.messages)
    least_prompt += TOOLBOX_TOKENS if request.shown_tools is not None else 0
    least_prompt += FORMAT_TOKENS if request.format is not None else 0
    least_prompt += len(attempt.added) / BYTES_A_TOKEN
    return (
        claim.completion_tokens <= least_completion * 1.1 + SLACK_TOKENS
        and claim.prompt_tokens <= least_prompt * 1.1 + SLACK_TOKENS
    )


def count_exactly(attempt: Attempt, request: ChatRequest) -> Tokens:
    completion = count_text(attempt.text.decode("utf-8", "replace"))
    reasoning = round(completion * attempt.reasoning_pieces / attempt.pieces) if attempt.pieces else 0
    return Tokens(prompt_tokens(request) + count_text(attempt.added), 0, completion, reasoning)


def prompt_tokens(request: ChatRequest) -> int:
    return count_request(request)


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
    return orjson.Fragment(format_usd(pusd).encode())


def attempts_shown(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """For the tenant and the ledger: which endpoint, how it ended, how long it took. No upstream message.

    `streamed`: to the client, whichever way it came.
    """
    return [
        {
            "endpoint": attempt.candidate.endpoint.name,
            "status": attempt.status,
            "failure": attempt.failure.kind.value if attempt.failure else None,
            "finish_reason": attempt.reader.finish_reason,
            "streamed": attempt.outlet.delivers,
            "first_content_ms": millis(attempt.started_s, attempt.first_content_s),
            "total_ms": millis(attempt.started_s, attempt.ended_s),
            **({"repair": True} if attempt.repairs else {}),
        }
        for attempt in attempts
    ]


def millis(start_s: float, end_s: float | None) -> int | None:
    return None if end_s is None else round((end_s - start_s) * 1_000)
