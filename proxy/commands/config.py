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
    """Loading the settings already refused what is wrong in itself; here what is missing around them."""
    endpoints = load_endpoints(settings, os.environ)
    if settings.database.url:
        secret_key(settings, os.environ)
    emit(args, {"ok": True, "data_dir": str(settings.data_dir), "endpoints": [one.name for one in endpoints]})
    return 0
