"""`caduceus config check`."""

import argparse
import os

from proxy.commands.output import emit
from proxy.config import Settings
from proxy.routing.endpoints import load_endpoints
from proxy.secrets import secret_key


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    config = commands.add_parser("config", help="the settings").add_subparsers(metavar="COMMAND", required=True)
    check = config.add_parser("check", parents=[common], help="say what is wrong with them, without starting")
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace, settings: Settings) -> int:
    """Check the keys and secrets that the settings need; the settings themselves were checked when they were loaded."""
    endpoints = load_endpoints(settings, os.environ)
    if settings.database.url:
        secret_key(settings, os.environ)
    emit(args, {"ok": True, "data_dir": str(settings.data_dir), "endpoints": [endpoint.name for endpoint in endpoints]})
    return 0
