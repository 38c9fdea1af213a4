"""`caduceus tenant …`: who pays."""

import argparse
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts import tenants
from ledger.accounts.credit import add_credit
from ledger.accounts.tenants import Tenant
from ledger.money import format_usd
from proxy.commands.administer import actor, administer, usd, words
from proxy.commands.output import emit
from proxy.config import Settings
from proxy.serving.database import Database

BUYER = {
    "legal_name": "as invoices name it",
    "address": "lines separated by ;",
    "country": "two letters",
    "vat_id": None,
    "email": "where invoices go",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("tenant", help="who pays").add_subparsers(metavar="COMMAND", required=True)
    create = actions.add_parser("create", parents=[common], help="a new tenant")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--credit", metavar="USD", type=usd, help="granted at once")
    create.add_argument("--internal", action="store_true", help="gets statements, not invoices")
    create.set_defaults(run=run_create)
    actions.add_parser("list", parents=[common], help="all of them").set_defaults(run=run_list)
    show = actions.add_parser("show", parents=[common], help="one of them, with its balance")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(run=run_show)
    change = actions.add_parser("set", parents=[common], help='change what is given; "" clears it')
    change.add_argument("name", metavar="NAME")
    for field, meaning in BUYER.items():
        change.add_argument(f"--{field.replace('_', '-')}", metavar="TEXT", default=argparse.SUPPRESS, help=meaning)
    change.add_argument(
        "--active", action="store_false", dest="suspended", default=argparse.SUPPRESS, help="end a suspension"
    )
    change.set_defaults(run=run_set)
    for parser in (create, change):
        default = None if parser is create else argparse.SUPPRESS
        parser.add_argument("--plan", metavar="PLAN", default=default, help="absent: pass-through without markup")
        parser.add_argument("--jurisdictions", metavar="EU,US", type=words, default=default)
        parser.add_argument("--postpaid", metavar="LIMIT", type=usd, dest="credit_limit_pusd", default=default)
    suspend = actions.add_parser("suspend", parents=[common], help="refuse its requests")
    suspend.add_argument("name", metavar="NAME")
    suspend.set_defaults(run=run_suspend)
    erase = actions.add_parser("erase-user", parents=[common], help="forget what was said of an end user")
    erase.add_argument("name", metavar="NAME")
    erase.add_argument("user", metavar="USER")
    erase.set_defaults(run=run_erase)


def run_create(args: argparse.Namespace, settings: Settings) -> int:
    async def act(db: AsyncConnection, _: Database) -> Tenant:
        made = await tenants.create_tenant(
            db,
            args.name,
            actor=actor(),
            plan=args.plan,
            jurisdictions=args.jurisdictions or None,
            credit_limit_pusd=args.credit_limit_pusd or 0,
            internal=args.internal,
        )
        if args.credit:
            await add_credit(db, args.name, args.credit, reference="opening", actor=actor(), kind="granted")
            made = await tenants.find_tenant(db, args.name)
        return made

    emit(args, shown(administer(settings, act)))
    return 0


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    rows = [shown(tenant) for tenant in administer(settings, lambda db, _: tenants.list_tenants(db))]
    columns = ("name", "balance", "held", "available", "plan", "jurisdictions", "suspended")
    emit(args, rows, [{name: row[name] for name in columns} for row in rows])
    return 0


def run_show(args: argparse.Namespace, settings: Settings) -> int:
    emit(args, shown(administer(settings, lambda db, _: tenants.find_tenant(db, args.name))))
    return 0


def run_set(args: argparse.Namespace, settings: Settings) -> int:
    changes = {name: value for name, value in vars(args).items() if name in tenants.SETTABLE}
    if changes.get("address"):
        changes["address"] = [line.strip() for line in changes["address"].split(";")]
    changes = {name: None if value in ("", []) else value for name, value in changes.items()}
    emit(
        args,
        shown(administer(settings, lambda db, _: tenants.set_tenant(db, args.name, actor=actor(), **changes))),
    )
    return 0


def run_suspend(args: argparse.Namespace, settings: Settings) -> int:
    async def act(db: AsyncConnection, _: Database) -> Tenant:
        return await tenants.set_tenant(db, args.name, actor=actor(), suspended=True)

    emit(args, shown(administer(settings, act)))
    return 0


def run_erase(args: argparse.Namespace, settings: Settings) -> int:
    erased = administer(settings, lambda db, _: tenants.erase_user(db, args.name, args.user, actor=actor()))
    emit(args, {"tenant": args.name, "user": args.user, "requests": erased})
    return 0


def shown(tenant: Tenant) -> dict[str, Any]:
    """Balance = credit − charges, held = open holds, available = balance − held."""
    return {
        "name": tenant.name,
        "balance": format_usd(tenant.balance_pusd),
        "held": format_usd(tenant.held_pusd),
        "available": format_usd(tenant.available_pusd),
        "credit_limit": format_usd(tenant.credit_limit_pusd),
        "plan": tenant.plan,
        "jurisdictions": tenant.jurisdictions,
        "internal": tenant.internal,
        "suspended": tenant.suspended,
        **{field: getattr(tenant, field) for field in BUYER},
        "created_at": tenant.created_at.isoformat(timespec="seconds"),
    }
