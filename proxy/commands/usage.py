"""`caduceus usage`: what a tenant used and what it was charged."""

import argparse
from typing import Any

from ledger.money import format_usd
from ledger.reports import usage
from ledger.reports.usage import Usage
from proxy.commands.administer import administer, month
from proxy.commands.output import emit
from proxy.config import Settings


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("usage", parents=[common], help="what a tenant used and was charged")
    parser.add_argument("tenant", metavar="TENANT")
    parser.add_argument("--month", metavar="YYYY-MM", type=month, help="absent: since the beginning")
    parser.add_argument("--by", choices=usage.GROUPS, help="one row each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    rows = administer(
        settings,
        lambda db, _: usage.usage(db, args.tenant, month=args.month, by=args.by, timezone=settings.billing.timezone),
    )
    if args.by is None:
        emit(args, shown(rows[0]))
        return 0
    table = [{args.by: row.group, **shown(row)} for row in rows]
    emit(args, table, table)
    return 0


def shown(row: Usage) -> dict[str, Any]:
    return {
        "requests": row.requests,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "charge": format_usd(row.charge_pusd),
        "sandbox_charge": format_usd(row.sandbox_charge_pusd),
    }
