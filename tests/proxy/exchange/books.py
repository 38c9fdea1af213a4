"""A ledger in memory, for tests of what goes through it. `test_books.py` holds it to what the real one does."""

import asyncio
from uuid import UUID

from ledger.billing import Tokens
from ledger.errors import HoldRefused, LedgerUnavailable
from ledger.journal.writes import Hold, HoldOutcome, Settlement
from ledger.keys import KeyRecord
from tests.proxy.exchange.parts import key


class FakeBooks:
    """Holds and settlements as `ledger.journal.store.Store` takes them.

    While `away` it refuses both, as without Postgres; while `silent` a settlement waits until its caller is cancelled.
    `positions_pusd` is what each account has available, negative where it owes. The rest lies open to be looked at.
    """

    def __init__(self) -> None:
        self.away = self.silent = False
        self.positions_pusd: dict[int, int] = {}
        self.budgets_pusd: dict[int, int] = {}
        """What is left of the budgets of the keys that have one."""
        self.holds: dict[UUID, Hold] = {}
        self.claims: dict[bytes, UUID] = {}
        self.checkpoints: dict[UUID, tuple[str, Tokens]] = {}
        self.settlements: dict[UUID, Settlement] = {}
        self.asked: list[Hold] = []
        """Every hold that was asked for, in order."""
        self._finished_claims: set[bytes] = set()

    def open_account(
        self, credit_pusd: int, *, budget_pusd: int | None = None, credit_limit_pusd: int = 0, continuation: bool = True
    ) -> KeyRecord:
        """A tenant with so much credit; its key."""
        number = len(self.positions_pusd) + 1
        self.positions_pusd[number] = credit_pusd
        if budget_pusd is not None:
            self.budgets_pusd[number] = budget_pusd
        return key(
            account_id=number,
            tenant_id=number,
            key_id=number,
            budget_pusd=budget_pusd,
            credit_limit_pusd=credit_limit_pusd,
            continuation=continuation,
        )

    def held_pusd(self, account_id: int) -> int:
        return sum(hold.amount_pusd for hold in self.holds.values() if hold.account_id == account_id)

    async def hold(self, hold: Hold) -> HoldOutcome:
        self._reach()
        self.asked.append(hold)
        if hold.account_id not in self.positions_pusd:
            raise HoldRefused(hold.request_id, f"account {hold.account_id} is no tenant's")
        if hold.claim is not None and self.claims.get(hold.claim.id, hold.request_id) != hold.request_id:
            return HoldOutcome(False, 0, "claimed")
        reason = self._refusal(hold)
        if reason is None and hold.request_id not in self.holds:
            self._move(hold.account_id, hold.key_id, -hold.amount_pusd)
            self.holds[hold.request_id] = hold
            if hold.claim is not None:
                self.claims[hold.claim.id] = hold.request_id
        return HoldOutcome(reason is None, max(min(self._left(hold)), 0), reason)

    async def settle(self, settlement: Settlement) -> None:
        """A second one of a request changes nothing but a claim that is still open."""
        self._reach()
        if self.silent:
            await asyncio.get_running_loop().create_future()
        self.checkpoints.pop(settlement.request_id, None)
        if settlement.request_id not in self.settlements:
            held = self.holds.pop(settlement.request_id, None)
            released_pusd = 0 if held is None else held.amount_pusd
            charge_pusd = 0 if settlement.bill is None else settlement.bill.charge_pusd
            self._move(settlement.account_id, settlement.key_id, released_pusd - charge_pusd)
            self.settlements[settlement.request_id] = settlement
        for claim_id in [name for name, owner in self.claims.items() if owner == settlement.request_id]:
            if settlement.answer is None or claim_id in self._finished_claims:
                continue
            if settlement.answer.whole:
                self._finished_claims.add(claim_id)
            else:
                del self.claims[claim_id]

    def checkpoint(self, request_id: UUID, endpoint: str, tokens: Tokens) -> None:
        self.checkpoints[request_id] = (endpoint, tokens)

    def _reach(self) -> None:
        if self.away:
            raise LedgerUnavailable("Postgres does not answer")

    def _left(self, hold: Hold) -> tuple[int, int]:
        """What the account, and what the key could still hold."""
        room_pusd = self.positions_pusd[hold.account_id] + hold.credit_limit_pusd
        return room_pusd, self.budgets_pusd.get(hold.key_id, room_pusd)

    def _refusal(self, hold: Hold) -> str | None:
        if hold.request_id in self.settlements:
            return "over"
        if hold.request_id in self.holds:
            return None
        room_pusd, budget_pusd = self._left(hold)
        if hold.amount_pusd > room_pusd:
            return "credit"
        return "budget" if hold.amount_pusd > budget_pusd else None

    def _move(self, account_id: int, key_id: int, change_pusd: int) -> None:
        self.positions_pusd[account_id] += change_pusd
        if key_id in self.budgets_pusd:
            self.budgets_pusd[key_id] += change_pusd
