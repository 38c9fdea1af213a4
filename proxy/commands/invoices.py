"""`caduceus invoice …`: preview, issue, show, export, cancel."""

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson

from ledger.papers import invoicing
from ledger.papers.invoices import to_csv
from ledger.papers.invoicing import Seller
from proxy.commands.administer import actor, administer, month
from proxy.commands.output import emit, table
from proxy.config import Settings
from proxy.errors import CommandError

FORMATS = ("json", "csv")
LISTED = ("number", "kind", "month", "total", "prepaid", "amount_due", "currency", "cancelled_by")
LINE = ("description", "quantity", "unit_price", "amount")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("invoice", help="what tenants are billed").add_subparsers(
        metavar="COMMAND", required=True
    )
    preview = actions.add_parser("preview", parents=[common], help="what would be issued now")
    preview.add_argument("tenant", metavar="TENANT")
    preview.set_defaults(run=run_preview)
    issue = actions.add_parser("issue", parents=[common], help="issue; what is issued already comes again")
    issue.add_argument("tenant", metavar="TENANT", nargs="?", help="or --all")
    issue.add_argument("--all", action="store_true", help="every tenant that was charged")
    issue.add_argument("--interim", action="store_true", help="up to now, of a month that is not over")
    issue.set_defaults(run=run_issue, parser=issue)
    for parser in (preview, issue):
        parser.add_argument("month", metavar="YYYY-MM", type=month, nargs="?" if parser is issue else None)
    listing = actions.add_parser("list", parents=[common], help="all of them")
    listing.add_argument("tenant", metavar="TENANT", nargs="?")
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", parents=[common], help="one of them")
    show.set_defaults(run=run_show)
    export = actions.add_parser("export", parents=[common], help="as a file")
    export.add_argument("--format", choices=FORMATS, required=True)
    export.add_argument("-o", "--output", metavar="FILE", help="absent: standard output")
    export.set_defaults(run=run_export)
    cancel = actions.add_parser("cancel", parents=[common], help="a credit note over all of it")
    cancel.set_defaults(run=run_cancel)
    for parser in (show, export, cancel):
        parser.add_argument("number", metavar="NUMBER")


def run_preview(args: argparse.Namespace, settings: Settings) -> int:
    print_invoice(
        args,
        administer(
            settings, lambda db, _: invoicing.preview_invoice(db, args.tenant, args.month, seller=seller(settings))
        ),
    )
    return 0


def run_issue(args: argparse.Namespace, settings: Settings) -> int:
    if args.all:
        return issue_all(args, settings)
    if args.tenant is None or args.month is None:
        args.parser.error("give TENANT YYYY-MM, or --all YYYY-MM")
    print_invoice(
        args,
        administer(
            settings,
            lambda db, _: invoicing.issue_invoice(
                db, args.tenant, args.month, seller=seller(settings), actor=actor(), interim=args.interim
            ),
        ),
    )
    return 0


def issue_all(args: argparse.Namespace, settings: Settings) -> int:
    given = [word for word in (args.tenant, args.month) if word is not None]
    if len(given) != 1 or not isinstance(given[0], str):
        args.parser.error("with --all give only the month, YYYY-MM")
    try:
        wanted = month(given[0])
    except argparse.ArgumentTypeError as error:
        args.parser.error(str(error))
    issued = administer(
        settings,
        lambda db, _: invoicing.issue_all(db, wanted, seller=seller(settings), actor=actor(), interim=args.interim),
    )
    emit(args, issued, [pick(document) for document in issued])
    return 0


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    found = administer(settings, lambda db, _: invoicing.list_invoices(db, args.tenant))
    emit(args, found, [pick(document) for document in found])
    return 0


def run_show(args: argparse.Namespace, settings: Settings) -> int:
    print_invoice(args, administer(settings, lambda db, _: invoicing.show_invoice(db, args.number)))
    return 0


def run_export(args: argparse.Namespace, settings: Settings) -> int:
    document = administer(settings, lambda db, _: invoicing.show_invoice(db, args.number))
    if args.format == "csv":
        content = to_csv(document).encode()
    else:
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if args.output is None:
        sys.stdout.buffer.write(content)
        return 0
    try:
        Path(args.output).write_bytes(content)
    except OSError as error:
        raise CommandError(f"{args.output} cannot be written: {error.strerror}") from None
    emit(args, {"number": args.number, "format": args.format, "file": args.output, "bytes": len(content)})
    return 0


def run_cancel(args: argparse.Namespace, settings: Settings) -> int:
    print_invoice(
        args,
        administer(
            settings,
            lambda db, _: invoicing.cancel_invoice(db, args.number, seller=seller(settings), actor=actor()),
        ),
    )
    return 0


def seller(settings: Settings) -> Seller:
    billing = settings.billing
    details = None if billing.seller is None else billing.seller.model_dump()
    return Seller(currency=billing.currency, timezone=billing.timezone, details=details)


def print_invoice(args: argparse.Namespace, document: dict[str, Any]) -> None:
    if args.json:
        emit(args, document)
        return
    tenant = document["tenant"]
    print(f"{document['kind'].replace('_', ' ')} {document['number'] or '(preview)'}")
    print(
        f"{tenant['legal_name'] or tenant['name']}, {document['period']['from']} until {document['period']['until']}\n"
    )
    if document["lines"]:
        print(table([{name: line[name] for name in LINE} for line in document["lines"]]) + "\n")
    emit(args, {name: document[name] for name in ("subtotal", "tax", "total", "prepaid", "amount_due", "currency")})


def pick(document: dict[str, Any]) -> dict[str, Any]:
    """The row of an invoice in a list."""
    return {"tenant": document["tenant"]["name"], **{name: document.get(name) for name in LISTED}}
