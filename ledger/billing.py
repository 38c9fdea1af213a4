"""What is charged: the attempts of one finished request in, one `Bill` out. Pure, integers only.

- The prompt is charged once, at the price of the endpoint that first delivered; each completion token at the price of
  the endpoint that produced it. Everything else a provider takes is our cost.
- The basis is the count that the provider reported. Where it is missing, implausible, or `excessive` beside our own
  count, ours is the basis; what the provider takes for the excess is booked as disputed cost. The usage shown is the
  usage billed.
- A charge never exceeds its hold; the rest is our overrun.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from ledger.errors import NoPrice
from ledger.prices import Price

DISPUTE_PERCENT = 10
DISPUTE_TOKENS = 20
ABSURD_TOKENS = 10**8  # no context and no answer is that long


class UsageSource(StrEnum):
    """How the billed tokens are known, from best to worst."""

    PROVIDER = "provider"
    CONTINUOUS = "continuous"
    COUNTED = "counted"
    ESTIMATED = "estimated"


RANKS = {source: rank for rank, source in enumerate(UsageSource)}


class Ending(StrEnum):
    COMPLETE = "complete"
    CLIENT_LEFT = "client_left"
    PROVIDER_CUT = "provider_cut"
    FAILED = "failed"  # nothing of it was delivered
    REPAIR = "repair"  # it replaced the answer of an attempt that is charged


@dataclass(frozen=True, slots=True)
class Tokens:
    """`cached` are among `prompt`, `reasoning` among `completion`."""

    prompt: int
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


NO_TOKENS = Tokens(0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt at one endpoint; a request is a sequence of them, in order."""

    endpoint: str
    provider: str
    sandbox: bool
    sell: Price | None  # what the tenant pays there
    buy: Price  # what the provider takes
    reported: Tokens | None  # the provider's own count; None: it reported none
    reported_source: UsageSource  # PROVIDER, or CONTINUOUS for the last of continuous statistics
    counted: Tokens  # ours: of the prompt sent, and of what was delivered
    counted_exactly: bool
    ending: Ending
    hidden_reasoning: bool = False  # the provider declares that it generates and counts tokens that it does not show
    cost_unknown: bool = False  # it worked, or may have worked, without reporting how much


@dataclass(frozen=True, slots=True)
class BillLine:
    """What the tokens of one endpoint cost the tenant; the hold may leave less than `amount_pusd` to be charged."""

    endpoint: str
    sandbox: bool
    price: Price
    tokens: Tokens
    amount_pusd: int
    charged_pusd: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one attempt cost us. `disputed_pusd` comes on top: the provider takes it, and we do not accept it.

    `request.costs` keeps it as JSON, under these names.
    """

    endpoint: str
    provider: str
    sandbox: bool
    tokens: Tokens
    reported: Tokens | None
    cost_pusd: int
    disputed_pusd: int
    unknown: bool


@dataclass(frozen=True, slots=True)
class Bill:
    """What the tenant pays and what the attempts cost us; `overrun_pusd` is due beyond the hold and not charged."""

    charge_pusd: int
    sandbox_charge_pusd: int  # of `charge_pusd`
    tokens: Tokens
    source: UsageSource
    lines: tuple[BillLine, ...]
    costs: tuple[Cost, ...]
    disputed_pusd: int
    overrun_pusd: int
    flags: tuple[str, ...]

    @property
    def cost_pusd(self) -> int:
        """Accepted cost, without `disputed_pusd`."""
        return sum(cost.cost_pusd for cost in self.costs)


@dataclass(frozen=True, slots=True)
class Measured:
    """The tokens of one attempt: `billed` to the tenant, `accepted` as the provider's due. `flag` says what is odd."""

    billed: Tokens
    accepted: Tokens
    source: UsageSource
    flag: str | None


def bill(deliveries: Sequence[Delivery], hold_pusd: int) -> Bill:
    """Raises NoPrice when tokens are due at an endpoint without a sell price."""
    measured = [measure(delivery) for delivery in deliveries]
    due = [(d, m) for d, m in zip(deliveries, measured, strict=True) if delivered(d)]
    lines = []
    left_pusd = hold_pusd
    for index, (delivery, found) in enumerate(due):
        line = priced(delivery, found.billed if index == 0 else replace(found.billed, prompt=0, cached=0), left_pusd)
        left_pusd -= line.charged_pusd
        lines.append(line)
    costs = tuple([cost(d, m) for d, m in zip(deliveries, measured, strict=True)])
    overrun_pusd = sum(line.amount_pusd - line.charged_pusd for line in lines)
    return Bill(
        charge_pusd=hold_pusd - left_pusd,
        sandbox_charge_pusd=sum(line.charged_pusd for line in lines if line.sandbox),
        tokens=total([line.tokens for line in lines]),
        source=worst([found.source for _, found in due]),
        lines=tuple(lines),
        costs=costs,
        disputed_pusd=sum(each.disputed_pusd for each in costs),
        overrun_pusd=overrun_pusd,
        flags=flags([found for _, found in due], costs, overrun_pusd),
    )


def delivered(delivery: Delivery) -> bool:
    """Whether the tenant pays for it. An answer that the provider cut is paid for if some of it came."""
    match delivery.ending:
        case Ending.FAILED | Ending.REPAIR:
            return False
        case Ending.PROVIDER_CUT:
            return delivery.counted.completion > 0
        case Ending.COMPLETE | Ending.CLIENT_LEFT:
            return True
        case _ as never:
            assert_never(never)


def measure(delivery: Delivery) -> Measured:
    """Take the reported count where it is plausible and not excessive, else ours; prompt and completion apart."""
    reported, counted = delivery.reported, delivery.counted
    ours = UsageSource.COUNTED if delivery.counted_exactly else UsageSource.ESTIMATED
    if reported is None:
        return Measured(counted, counted, ours, None if delivery.ending is Ending.FAILED else "usage_missing")
    if not plausible(reported, counted):
        return Measured(counted, counted, ours, "usage_implausible")
    long_prompt = excessive(reported.prompt, counted.prompt)
    long_completion = excessive(reported.completion, counted.completion)
    # Hidden reasoning explains a completion longer than the text that came, but not a longer prompt.
    disputed = long_prompt or (long_completion and not delivery.hidden_reasoning)
    accepted = Tokens(
        counted.prompt if long_prompt else reported.prompt,
        min(reported.cached, counted.prompt) if long_prompt else reported.cached,
        *completion(counted if long_completion and not delivery.hidden_reasoning else reported),
    )
    if long_completion and delivery.ending is Ending.PROVIDER_CUT:  # even with hidden reasoning only what came is due
        billed = Tokens(accepted.prompt, accepted.cached, *completion(counted))
    else:
        billed = accepted
    by_provider = accepted == billed and not disputed
    return Measured(
        billed, accepted, delivery.reported_source if by_provider else ours, "usage_disputed" if disputed else None
    )


def completion(tokens: Tokens) -> tuple[int, int]:
    """Completion and reasoning tokens. Some providers count reasoning beside the completion; it is cut to fit in it."""
    return tokens.completion, min(tokens.reasoning, tokens.completion)


def plausible(reported: Tokens, counted: Tokens) -> bool:
    """Whether the report can be true: no negative or absurd numbers, a prompt, and a completion if we counted one."""
    return (
        0 < reported.prompt < ABSURD_TOKENS
        and 0 <= reported.cached <= reported.prompt
        and 0 <= reported.completion < ABSURD_TOKENS
        and 0 <= reported.reasoning < ABSURD_TOKENS
        and (reported.completion > 0 or counted.completion == 0)
    )


def excessive(reported: int, counted: int) -> bool:
    """Whether a reported number of tokens is more than 10 % and more than 20 tokens above our own count.

    The one place of this rule: whoever asks whether to believe a provider's count asks here.
    """
    return reported * 100 > counted * (100 + DISPUTE_PERCENT) and reported > counted + DISPUTE_TOKENS


def priced(delivery: Delivery, tokens: Tokens, left_pusd: int) -> BillLine:
    if delivery.sell is None:
        raise NoPrice(delivery.endpoint)
    amount_pusd = amount(tokens, delivery.sell)
    charged_pusd = min(amount_pusd, left_pusd)
    return BillLine(delivery.endpoint, delivery.sandbox, delivery.sell, tokens, amount_pusd, charged_pusd)


def cost(delivery: Delivery, found: Measured) -> Cost:
    """What the provider takes. A failed attempt costs what was reported for it, or nothing."""
    reported = delivery.reported
    tokens = found.accepted
    if delivery.ending is Ending.FAILED:
        believed = reported if reported is not None and plausible(reported, NO_TOKENS) else NO_TOKENS
        tokens = Tokens(believed.prompt, believed.cached, *completion(believed))
    cost_pusd = amount(tokens, delivery.buy)
    disputed_pusd = 0
    if reported is not None and delivery.ending is not Ending.FAILED and found.flag == "usage_disputed":
        disputed_pusd = max(0, amount(reported, delivery.buy) - cost_pusd)
    return Cost(
        delivery.endpoint,
        delivery.provider,
        delivery.sandbox,
        tokens,
        reported,
        cost_pusd,
        disputed_pusd,
        delivery.cost_unknown,
    )


def amount(tokens: Tokens, price: Price) -> int:
    """Pico-dollars. The cached part of the prompt has a price of its own."""
    return (
        (tokens.prompt - tokens.cached) * price.input_pusd
        + tokens.cached * price.cached_input_pusd
        + tokens.completion * price.output_pusd
    )


def total(parts: Sequence[Tokens]) -> Tokens:
    if len(parts) == 1:
        return parts[0]
    return Tokens(
        sum(part.prompt for part in parts),
        sum(part.cached for part in parts),
        sum(part.completion for part in parts),
        sum(part.reasoning for part in parts),
    )


def worst(sources: Sequence[UsageSource]) -> UsageSource:
    """The least certain of `sources`; COUNTED where nothing was delivered."""
    return max(sources, key=RANKS.__getitem__, default=UsageSource.COUNTED)


def flags(due: Sequence[Measured], costs: Sequence[Cost], overrun_pusd: int) -> tuple[str, ...]:
    found = [each.flag for each in due if each.flag]
    if any(each.unknown for each in costs):
        found.append("cost_unknown")
    if overrun_pusd:
        found.append("beyond_hold")
    return tuple(dict.fromkeys(found))
