"""Prices that the configuration gives: a new version only where they differ from the last that the configuration gave.

A price of `caduceus price set` stays in force while the configuration says the same, until that is edited. Written for
asyncpg alone, because a serving process calls it.
"""

from collections.abc import Mapping

import asyncpg

from ledger.money import parse_price

FilePrice = tuple[str, str, str | None]
"""Input, output, cached input (None: as input), in USD per 1M tokens."""

LAST_FROM_FILE = """
SELECT DISTINCT ON (subject) subject, input_pusd, output_pusd, cached_input_pusd FROM price
WHERE subject_kind = 'endpoint' AND source = 'file' ORDER BY subject, id DESC
"""
ADD = """
INSERT INTO price (subject_kind, subject, input_pusd, output_pusd, cached_input_pusd, starts_at, source)
VALUES ('endpoint', $1, $2, $3, $4, clock_timestamp(), 'file')
"""


async def sync_file_prices(connection: asyncpg.Connection, prices: Mapping[str, FilePrice]) -> None:
    """Add a version for each endpoint whose price changed. Of processes that start at once one adds it.

    Raises PriceNotWhole, MoneyError.
    """
    given = {
        name: (parse_price(into), parse_price(out), parse_price(into if cached is None else cached))
        for name, (into, out, cached) in prices.items()
    }
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('caduceus.file_prices'))")
        last = {row["subject"]: tuple(row)[1:] for row in await connection.fetch(LAST_FROM_FILE)}
        for name, price in given.items():
            if last.get(name) != price:
                await connection.execute(ADD, name, *price)
