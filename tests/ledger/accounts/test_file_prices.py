"""Prices that the configuration gives."""

import asyncio
from typing import Any

from ledger.accounts.administration import administration
from ledger.accounts.price_list import set_price
from ledger.journal.store import Store


async def test_a_price_in_the_file_opens_a_version_only_when_the_file_changes(books: Any, store: Store) -> None:
    async def versions() -> int:
        return int(await books.value("SELECT count(*) FROM price"))

    first, second = {"nebius": ("1.00", "3.00", None)}, {"nebius": ("1.00", "2.00", None)}
    await asyncio.gather(*(books.price(store, first) for _ in range(4)))
    assert await versions() == 1
    async with administration(books.url) as db:
        await set_price(db, "nebius", 7, 8, None, is_plan=False, actor="test")
    await books.price(store, first)  # the file says what it said before: `price set` stays in force
    price = store.prices.endpoint_price("nebius", store.instant())
    assert price is not None
    assert (await versions(), price.input_pusd) == (2, 7)
    await books.price(store, second)
    price = store.prices.endpoint_price("nebius", store.instant())
    assert price is not None
    assert (await versions(), price.output_pusd) == (3, 2_000_000)
