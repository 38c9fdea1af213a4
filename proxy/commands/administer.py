"""How commands reach the ledger, and how they read what people type."""

import argparse
import asyncio
import getpass
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import administration
from ledger.errors import LedgerError
from ledger.money import parse_price, parse_usd
from proxy.config import Settings
from proxy.errors import CommandError
from proxy.serving.database import Database, open_database

T = TypeVar("T")


def administer(settings: Settings, act: Callable[[AsyncConnection, Database], Awaitable[T]]) -> T:
    """Run `act` in one transaction. What the ledger refuses becomes a CommandError."""

    async def run(database: Database) -> T:
        async with administration(database.url) as db:
            return await act(db, database)

    try:
        with open_database(settings) as database:
            return asyncio.run(run(database))
    except LedgerError as error:
        raise CommandError(str(error)) from error


def actor() -> str:
    """The name under which the ledger's log records a command of this user."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user that the system has no name for
        return "cli"


def usd(text: str) -> int:
    return _read(parse_usd, text)


def price(text: str) -> int:
    return _read(parse_price, text)


def words(text: str) -> list[str]:
    """Comma-separated."""
    return [word.strip() for word in text.split(",") if word.strip()]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def instant(text: str) -> datetime:
    """A date or an ISO 8601 instant; UTC where no zone is given."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no instant like 2026-12-01 or 2026-12-01T09:00+01:00") from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def month(text: str) -> tuple[int, int]:
    try:
        read = datetime.strptime(text, "%Y-%m")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no month like 2026-11") from None
    return read.year, read.month


def _read(parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
