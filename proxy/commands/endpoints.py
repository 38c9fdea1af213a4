"""`caduceus endpoints [list | show]`."""

import argparse
import os
from typing import Any

from proxy.commands.output import emit
from proxy.config import Settings
from proxy.errors import CommandError
from proxy.routing.endpoints import Endpoint, load_endpoints

LISTED = (
    "name",
    "provider",
    "region",
    "jurisdiction",
    "jurisdiction_evidence",
    "input",
    "output",
    "context_tokens",
    "supports",
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    endpoints = commands.add_parser("endpoints", parents=[common], help="where the model is served")
    endpoints.set_defaults(run=run_list)
    actions = endpoints.add_subparsers(metavar="COMMAND")
    actions.add_parser("list", parents=[common], help="all of them").set_defaults(run=run_list)
    show = actions.add_parser("show", parents=[common], help="one of them")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(run=run_show)


def run_list(args: argparse.Namespace, settings: Settings) -> int:
    rows = [describe(endpoint) for endpoint in load_endpoints(settings, os.environ)]
    emit(args, rows, [{name: row[name] for name in LISTED} for row in rows])
    return 0


def run_show(args: argparse.Namespace, settings: Settings) -> int:
    endpoints = {endpoint.name: endpoint for endpoint in load_endpoints(settings, os.environ)}
    if args.name not in endpoints:
        raise CommandError(f"no endpoint is called {args.name}; `caduceus endpoints list` names them")
    emit(args, describe(endpoints[args.name]))
    return 0


def describe(endpoint: Endpoint) -> dict[str, Any]:
    """Prices are those of the configuration, in USD per million tokens; `caduceus price list` shows those in force."""
    price = endpoint.price
    return {
        "name": endpoint.name,
        "provider": endpoint.provider,
        "base_url": endpoint.base_url,
        "model_id": endpoint.target.model_id,
        "region": endpoint.region,
        "jurisdiction": endpoint.jurisdiction,
        "jurisdiction_evidence": endpoint.jurisdiction_evidence,
        "failure_domain": endpoint.failure_domain,
        "context_tokens": endpoint.context_tokens,
        "max_output_tokens": endpoint.max_output_tokens,
        "quantization": endpoint.quantization,
        "data_collection": endpoint.data_collection,
        "stream_plain": endpoint.stream_plain,
        "supports": sorted(endpoint.target.supports),
        "input": price.input if price else None,
        "output": price.output if price else None,
        "cached_input": price.cached_input if price else None,
    }
