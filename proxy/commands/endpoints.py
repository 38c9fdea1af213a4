"""`caduceus endpoints [list | show]`."""

import argparse
import os
from typing import Any

from proxy.commands.output import emit
from proxy.config import Settings
from proxy.errors import CommandError
from proxy.routing.endpoints import Endpoint, load_endpoints


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    endpoints = commands.add_parser("endpoints", parents=[common], help="where the model is served")
    endpoints.set_defaults(run=run_list)
    actions = endpoints.add_subparsers(metavar="COMMAND")
    actions.add_parser("list", parents=[common], help="all of them").set_defaults(run=run_list)
    show = actions.add_parser("show", parents=[common], help="one of them")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(run=run_show)


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    rows = [describe(one) for one in load_endpoints(settings, os.environ)]
    shown = ("name", "provider", "region", "jurisdiction", "input", "output", "context_tokens", "supports")
    emit(args, rows, [{name: row[name] for name in shown} for row in rows])
    return 0


def run_show(args: argparse.Namespace, settings: Settings) -> int:
    found = [describe(one) for one in load_endpoints(settings, os.environ) if one.name == args.name]
    if not found:
        raise CommandError(f"no endpoint is called {args.name}; `caduceus endpoints list` names them")
    emit(args, found[0])
    return 0


def describe(one: Endpoint) -> dict[str, Any]:
    """Prices are the file's, in USD per million tokens; `caduceus price list` says which hold."""
    return {
        "name": one.name,
        "provider": one.provider,
        "base_url": one.base_url,
        "model_id": one.target.model_id,
        "region": one.region,
        "jurisdiction": one.jurisdiction,
        "failure_domain": one.failure_domain,
        "context_tokens": one.context_tokens,
        "max_output_tokens": one.max_output_tokens,
        "quantization": one.quantization,
        "data_collection": one.data_collection,
        "stream_plain": one.stream_plain,
        "supports": sorted(one.target.supports),
        "input": one.price.input if one.price else None,
        "output": one.price.output if one.price else None,
        "cached_input": one.price.cached_input if one.price else None,
    }
