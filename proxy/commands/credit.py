"""`caduceus credit add`: money that came in."""

import argparse

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.credit import Credit, add_credit
from ledger.accounts.tenants import Tenant, find_tenant
from ledger.money import format_usd
from proxy.commands.administer import actor, administer, usd
from proxy.commands.output import emit
from proxy.config import Settings
from proxy.serving.database import Database


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("credit", help="money that came in").add_subparsers(metavar="COMMAND", required=True)
    add = actions.add_parser("add", parents=[common], help="once per reference")
    add.add_argument("tenant", metavar="TENANT")
    add.add_argument("amount", metavar="USD", type=usd)
    add.add_argument("--reference", metavar="R", required=True, help="of the payment; the same again changes nothing")
    add.add_argument("--kind", choices=("paid", "granted"), default="paid")
    add.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    async def act(db: AsyncConnection, _: Database) -> tuple[Credit, Tenant]:
        added = await add_credit(db, args.tenant, args.amount, reference=args.reference, actor=actor(), kind=args.kind)
        return added, await find_tenant(db, args.tenant)

    added, tenant = administer(settings, act)
    emit(
        args,
        {
            "tenant": added.tenant,
            "amount": format_usd(added.amount_pusd),
            "reference": added.reference,
            "kind": added.kind,
            "posted_at": added.posted_at.isoformat(timespec="seconds"),
            "new": added.new,
            "balance": format_usd(tenant.balance_pusd),
        },
    )
    return 0
