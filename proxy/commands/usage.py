"""`caduceus usage`: what a tenant used and what it was charged."""

import argparse
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import driver
from ledger.accounts.tenants import find_tenant
from ledger.papers.periods import month_period
from ledger.reports.usage import GROUPS, UsageRow, usage
from proxy.commands.administer import administer, month
from proxy.commands.output import emit
from proxy.config import Settings


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("usage", parents=[common], help="what a tenant used and was charged")
    parser.add_argument("tenant", metavar="TENANT")
    parser.add_argument("--month", metavar="YYYY-MM", type=month, help="absent: since the beginning")
    parser.add_argument("--by", choices=tuple(GROUPS), help="one row each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    timezone = settings.billing.timezone

    async def read(db: AsyncConnection, _: object) -> Sequence[UsageRow]:
        tenant = await find_tenant(db, args.tenant)
        asked: tuple[int, int] | None = args.month
        period = None if asked is None else month_period(*asked, timezone)
        return await usage(await driver(db), tenant.id, period, timezone, by=args.by)

    rows = administer(settings, read)
    if args.by is None:
        emit(args, rows[0].shown())
        return 0
    table = [{args.by: row.group, **row.shown()} for row in rows]
    emit(args, table, table)
    return 0
