"""`caduceus price …`: what tokens cost, from when on."""

import argparse
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts import price_list
from ledger.accounts.price_list import PlanRow, PriceRow
from ledger.money import format_price
from providers.profiles import PROFILES
from proxy.commands.administer import actor, administer, instant, price
from proxy.commands.output import emit
from proxy.config import Settings
from proxy.errors import CommandError
from proxy.serving.database import Database

PPM_A_PERCENT = 10_000


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("price", help="what tokens cost").add_subparsers(metavar="COMMAND", required=True)
    actions.add_parser("list", parents=[common], help="every version").set_defaults(run=run_list)
    change = actions.add_parser("set", parents=[common], help="a new version, now or from an instant on")
    change.add_argument("name", metavar="ENDPOINT|PLAN", help="a name that is no endpoint's is a plan's")
    change.add_argument("--input", metavar="USD", type=price, help="per million tokens")
    change.add_argument("--output", metavar="USD", type=price, help="per million tokens")
    change.add_argument("--cached-input", metavar="USD", type=price, help="per million tokens; absent: as --input")
    change.add_argument("--from", metavar="INSTANT", type=instant, dest="starts_at", help="absent: now")
    change.add_argument("--markup", metavar="PERCENT", type=percent, help="of a plan: on top of the endpoint's price")
    change.set_defaults(run=run_set)


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    async def act(db: AsyncConnection, _: Database) -> tuple[list[PriceRow], list[PlanRow]]:
        return await price_list.list_prices(db), await price_list.list_plans(db)

    prices, plans = administer(settings, act)
    rows = [shown(row) for row in prices]
    markups = [{"name": plan.name, "markup": markup_shown(plan.markup_ppm)} for plan in plans]
    emit(args, {"prices": rows, "plans": markups}, rows)
    if markups and not args.json:
        print()
        emit(args, markups, markups)
    return 0


def run_set(args: argparse.Namespace, settings: Settings) -> int:
    priced = args.input is not None and args.output is not None
    if not priced and (args.markup is None or args.input is not None or args.output is not None):
        raise CommandError("give --input and --output, in USD per million tokens, or for a plan --markup PERCENT")

    async def act(db: AsyncConnection, _: Database) -> dict[str, Any]:
        is_plan = args.name not in configured(settings) and not await price_list.is_endpoint(db, args.name)
        if args.markup is not None and not is_plan:
            raise CommandError(f"{args.name} is an endpoint; a markup belongs to a plan")
        answer: dict[str, Any] = {"kind": "plan" if is_plan else "endpoint", "name": args.name}
        if args.markup is not None:
            plan = await price_list.set_markup(db, args.name, args.markup, actor=actor())
            answer["markup"] = markup_shown(plan.markup_ppm)
        if priced:
            row = await price_list.set_price(
                db,
                args.name,
                args.input,
                args.output,
                args.cached_input,
                is_plan=is_plan,
                actor=actor(),
                starts_at=args.starts_at,
            )
            answer |= shown(row)
        return answer

    emit(args, administer(settings, act))
    return 0


def configured(settings: Settings) -> set[str]:
    """Names of endpoints, whether or not their keys are set."""
    return {endpoint.name for endpoint in (PROFILES if settings.endpoints is None else settings.endpoints)}


def shown(row: PriceRow) -> dict[str, Any]:
    return {
        "version": row.id,
        "kind": row.subject_kind,
        "name": row.subject,
        "input": format_price(row.input_pusd),
        "output": format_price(row.output_pusd),
        "cached_input": format_price(row.cached_input_pusd),
        "from": row.starts_at.isoformat(timespec="seconds"),
        "source": row.source,
        "state": row.state,
    }


def percent(text: str) -> int:
    """Parts per million: "12.5" → 125,000."""
    try:
        ppm = Decimal(text) * PPM_A_PERCENT
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage like 12.5") from None
    if not ppm.is_finite() or ppm != int(ppm) or not -1_000_000 < ppm < 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage above -100 with at most 4 decimals")
    return int(ppm)


def markup_shown(ppm: int | None) -> str | None:
    return None if ppm is None else f"{Decimal(ppm) / PPM_A_PERCENT:f} %"
