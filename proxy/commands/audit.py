"""`caduceus audit`: check every invariant of the ledger; exit 1 if one does not hold."""

import argparse
from dataclasses import asdict

from ledger.reports import audit
from proxy.commands.administer import administer
from proxy.commands.output import emit
from proxy.config import Settings


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("audit", parents=[common], help="prove every invariant of the ledger")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    result = administer(settings, lambda db, _: audit.audit(db))
    checks = [asdict(check) for check in result.checks]
    emit(args, {"ok": result.ok, "checks": checks, "open_holds": result.open_holds}, checks)
    if not args.json:
        print(f"\n{'ok' if result.ok else 'NOT OK'}, {result.open_holds} holds open")
    return 0 if result.ok else 1
