"""`caduceus migrate`: bring the database to the schema of this version."""

import argparse

from ledger.errors import LedgerError
from ledger.journal.migrate import upgrade
from ledger.journal.schema import SCHEMA_REVISION
from proxy.commands.output import emit
from proxy.config import Settings
from proxy.errors import CommandError
from proxy.serving.database import open_database


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    migrate = commands.add_parser("migrate", parents=[common], help="bring the database to this version's schema")
    migrate.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    try:
        with open_database(settings) as database:
            upgrade(database.migrate_url)
    except LedgerError as error:
        raise CommandError(str(error)) from error
    emit(args, {"revision": SCHEMA_REVISION})
    return 0
