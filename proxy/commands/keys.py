"""`caduceus key …`: the secrets that apps send."""

import argparse
from typing import Any

from ledger.accounts import api_keys
from ledger.accounts.api_keys import ApiKey
from ledger.money import format_usd
from proxy.commands.administer import actor, administer, instant, positive, usd
from proxy.commands.output import emit
from proxy.config import Settings

LIMITS = ("rpm", "tpm", "concurrency", "budget", "expires")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("key", help="the secrets that apps send").add_subparsers(
        metavar="COMMAND", required=True
    )
    create = actions.add_parser("create", parents=[common], help="a new key; it is shown once")
    create.add_argument("tenant", metavar="TENANT")
    create.set_defaults(run=run_create)
    listing = actions.add_parser("list", parents=[common], help="a tenant's keys")
    listing.add_argument("tenant", metavar="TENANT")
    listing.set_defaults(run=run_list)
    change = actions.add_parser("set", parents=[common], help="change what is given")
    change.add_argument("id", metavar="ID", type=positive)
    change.add_argument("--no", metavar="LIMIT", action="append", choices=LIMITS, default=[], help="take a limit away")
    change.set_defaults(run=run_set)
    for parser in (create, change):
        add_settings(parser)
    rotate = actions.add_parser("rotate", parents=[common], help="revoke a key and make another with its limits")
    rotate.add_argument("id", metavar="ID", type=positive)
    rotate.set_defaults(run=run_rotate)
    revoke = actions.add_parser("revoke", parents=[common], help="in force everywhere within a second")
    revoke.add_argument("id", metavar="ID", type=positive)
    revoke.set_defaults(run=run_revoke)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """An option that is not given leaves no attribute, so that `set` does not change it."""
    for flag, kind, metavar, destination in (
        ("--name", str, "N", "name"),
        ("--rpm", positive, "N", "rpm"),
        ("--tpm", positive, "N", "tpm"),
        ("--concurrency", positive, "N", "concurrency"),
        ("--budget", usd, "USD/month", "budget_pusd"),
        ("--expires", instant, "DATE", "expires_at"),
    ):
        parser.add_argument(flag, type=kind, metavar=metavar, dest=destination, default=argparse.SUPPRESS)
    for flag, choices in (
        ("--stream-usage", ("on_request", "always")),
        ("--reasoning-format", ("both", "reasoning", "reasoning_content", "details", "inline", "none")),
    ):
        parser.add_argument(flag, choices=choices, default=argparse.SUPPRESS)
    parser.add_argument(
        "--continuation",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="may an answer that is cut go on at another endpoint",
    )


def run_create(args: argparse.Namespace, settings: Settings) -> int:
    made, key = administer(
        settings,
        lambda db, database: api_keys.create_key(
            db, args.tenant, database.secret_key, actor=actor(), **settings_of(args)
        ),
    )
    emit(args, {"id": made.id, "key": key, **shown(made)})
    return 0


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    rows = [shown(key) for key in administer(settings, lambda db, _: api_keys.list_keys(db, args.tenant))]
    columns = ("id", "name", "hint", "rpm", "tpm", "concurrency", "budget", "expires_at", "revoked_at")
    emit(args, rows, [{name: row[name] for name in columns} for row in rows])
    return 0


def run_set(args: argparse.Namespace, settings: Settings) -> int:
    columns = {"budget": "budget_pusd", "expires": "expires_at"}
    changes = {**settings_of(args), **{columns.get(limit, limit): None for limit in args.no}}
    emit(args, shown(administer(settings, lambda db, _: api_keys.set_key(db, args.id, actor=actor(), **changes))))
    return 0


def run_rotate(args: argparse.Namespace, settings: Settings) -> int:
    made, key = administer(
        settings, lambda db, database: api_keys.rotate_key(db, args.id, database.secret_key, actor=actor())
    )
    emit(args, {"id": made.id, "key": key, **shown(made)})
    return 0


def run_revoke(args: argparse.Namespace, settings: Settings) -> int:
    emit(args, shown(administer(settings, lambda db, _: api_keys.revoke_key(db, args.id, actor=actor()))))
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name in api_keys.SETTABLE}


def shown(key: ApiKey) -> dict[str, Any]:
    """Everything but the key itself; `hint` is the key's last characters."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "hint": f"…{key.hint}",
        "rpm": key.rpm,
        "tpm": key.tpm,
        "concurrency": key.concurrency,
        "budget": None if key.budget_pusd is None else format_usd(key.budget_pusd),
        "stream_usage": key.stream_usage,
        "reasoning_format": key.reasoning_format,
        "continuation": key.continuation,
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(timespec="seconds"),
        "rotated_from": key.rotated_from,
        "created_at": key.created_at.isoformat(timespec="seconds"),
    }
