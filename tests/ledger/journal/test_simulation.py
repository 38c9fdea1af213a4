"""The ledger against a model of it: random requests, credit, crashes and lost answers, from a seed.

The model knows nothing of batches, SQL or replays: it adds and subtracts, and must foresee every outcome and balance.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from ledger.accounts.administration import administration
from ledger.accounts.credit import add_credit
from ledger.billing import Ending, Tokens, bill
from ledger.journal.store import Store

USD = 10**12
STEPS = 25
PROMPT, COMPLETION = 1_000_000, 3_000_000  # pico-dollars a token


@dataclass
class Model:
    """One tenant."""

    customer: Any
    credited: int
    charged: int = 0
    open: dict[Any, int] = field(default_factory=dict)  # hold → what a sweep would charge for it

    @property
    def held(self) -> int:
        return sum(hold.amount_pusd for hold in self.open)

    @property
    def position(self) -> tuple[int, int, int]:
        left = self.credited - self.charged - self.held
        return max(left, 0), self.held, max(-left, 0)

    def fits(self, hold: Any) -> bool:
        return self.credited - self.charged - self.held - hold.amount_pusd >= -hold.credit_limit_pusd


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_ledger_is_as_its_model_foresees(books: Any, gate: Any, seed: int) -> None:
    chance = random.Random(seed)
    models = [Model(await books.customer("5.00"), 5 * USD) for _ in range(2)]
    models.append(Model(await books.customer("1.00", credit_limit_pusd=3 * USD), USD))
    steps = 0
    while steps < STEPS:
        async with books.store(url=gate.url) as store:
            for model in models:  # the earlier run's holds were swept before the store opened
                model.charged += sum(model.open.values())
                model.open.clear()
            await check(books, models)
            for _ in range(chance.randrange(1, 12)):
                steps += 1
                await step(books, gate, store, models, chance)
                await check(books, models)
            await crash(books, store, models, chance)
    async with books.store():
        pass
    for model in models:
        model.charged += sum(model.open.values())
        model.open.clear()
    await check(books, models)
    assert gate.swallowed > 0
    assert min(model.charged for model in models) > 0
    assert await books.value("SELECT count(*) FROM request WHERE swept AND charge_pusd > 0") > 0


async def check(books: Any, models: list[Model]) -> None:
    for model in models:
        assert await books.position(model.customer) == model.position


async def step(books: Any, gate: Any, store: Store, models: list[Model], chance: random.Random) -> None:
    """One batch: some settlements, which come first, and some holds; now and then its answer is lost."""
    if chance.random() < 0.2:
        model, amount_pusd = chance.choice(models), chance.randrange(1, USD)
        async with administration(books.url) as db:
            await add_credit(db, model.customer.name, amount_pusd, reference=str(chance.random()), actor="test")
        model.credited += amount_pusd
    writes, foreseen = [], []
    for model in models:
        for hold in chance.sample(sorted(model.open, key=lambda hold: hold.request_id), len(model.open) // 2):
            settled, charged_pusd = random_settlement(books, hold, chance)
            writes.append(store.settle(settled))
            foreseen.append(None)
            model.charged += charged_pusd
            del model.open[hold]
            gate.swallow = hold.request_id.bytes if chance.random() < 0.1 else gate.swallow
    for _ in range(chance.randrange(8)):
        model = chance.choice(models)
        hold = model.customer.hold(chance.choice([0, USD // 10, USD, 3 * USD]))
        writes.append(store.hold(hold))
        foreseen.append(model.fits(hold))
        if model.fits(hold):
            model.open[hold] = 0
        gate.swallow = hold.request_id.bytes if chance.random() < 0.1 else gate.swallow
    outcomes = await asyncio.gather(*writes)
    assert [outcome and outcome.accepted for outcome in outcomes] == foreseen


def random_settlement(books: Any, hold: Any, chance: random.Random) -> tuple[Any, int]:
    if chance.random() < 0.2:
        return books.settlement(hold, None, state="failed", endpoint=None), 0
    prompt, completion = chance.randrange(1, 200_000), chance.randrange(1, 100_000)
    due = bill(
        [
            books.delivery(
                prompt,
                completion,
                ending=chance.choice([Ending.COMPLETE, Ending.CLIENT_LEFT, Ending.PROVIDER_CUT]),
                sandbox=chance.random() < 0.3,
            )
        ],
        hold.amount_pusd,
    )
    return books.settlement(hold, due), min(prompt * PROMPT + completion * COMPLETION, hold.amount_pusd)


async def crash(books: Any, store: Store, models: list[Model], chance: random.Random) -> None:
    """What is open stays open; of some it is noted how far they came."""
    for model in models:
        for hold in model.open:
            if chance.random() < 0.5:
                completion = chance.randrange(100_000)
                store.checkpoint(hold.request_id, "nebius", Tokens(100, completion=completion))
                due_pusd = 100 * PROMPT + completion * COMPLETION if completion else 0
                model.open[hold] = min(due_pusd, hold.amount_pusd)
    noted = sum(1 for model in models for due in model.open.values() if due)
    written = "SELECT count(*) FROM hold WHERE checkpoint_completion > 0 AND amount > 0"
    await books.eventually(lambda: books.value(written), noted)
