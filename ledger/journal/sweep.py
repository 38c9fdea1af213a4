"""Settles the holds of processes that died, each from its last checkpoint and flagged as estimated."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ledger.billing import Delivery, Ending, Tokens, UsageSource, bill
from ledger.journal.pins import decode_pins
from ledger.journal.writes import Answer, Settlement

SWEEP_HOLDS = 1000  # at a time; the next sweep takes the next ones

# What an earlier run under this process's name left is swept at once, because the name is locked by this process; any
# other hold when both its request's total timeout and its owner's lease have passed.
DEAD_HOLDS = """
SELECT hold.* FROM hold LEFT JOIN server ON server.id = hold.owner
WHERE (server.name = $2 AND hold.owner <> $1)
    OR (hold.expires_at < clock_timestamp()
        AND (hold.owner = $1 OR server.lease_until IS NULL OR server.lease_until < clock_timestamp()))
ORDER BY hold.request_id LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class DeadHold:
    """A hold whose process died, with its last checkpoint."""

    request_id: UUID
    account_id: int
    tenant_id: int
    key_id: int
    amount_pusd: int
    pins: bytes
    age_ms: int
    endpoint: str | None  # of the checkpoint; None: there is none, so no byte is known to have come
    tokens: Tokens


async def dead_holds(connection: asyncpg.Connection, owner: int, server_name: str) -> list[DeadHold]:
    return [
        DeadHold(
            request_id=row["request_id"],
            account_id=row["account_id"],
            tenant_id=row["tenant_id"],
            key_id=row["key_id"],
            amount_pusd=row["amount"],
            pins=row["pins"],
            age_ms=0
            if row["checkpointed_at"] is None
            else int((row["checkpointed_at"] - row["created_at"]).total_seconds() * 1000),
            endpoint=row["checkpoint_endpoint"],
            tokens=Tokens(
                row["checkpoint_prompt"] or 0,
                row["checkpoint_cached"] or 0,
                row["checkpoint_completion"] or 0,
                row["checkpoint_reasoning"] or 0,
            ),
        )
        for row in await connection.fetch(DEAD_HOLDS, owner, server_name, SWEEP_HOLDS)
    ]


def settle_from_checkpoint(hold: DeadHold) -> Settlement:
    """Charge what had come by the last checkpoint, and nothing where there is none."""
    pin = None if hold.endpoint is None else decode_pins(hold.pins).get(hold.endpoint)
    due = None
    if pin is not None and hold.endpoint is not None:
        delivery = Delivery(
            endpoint=hold.endpoint,
            provider=pin.provider,
            sandbox=pin.sandbox,
            sell=pin.sell,
            buy=pin.buy,
            reported=None,
            reported_source=UsageSource.PROVIDER,
            counted=hold.tokens,
            counted_exactly=False,
            ending=Ending.PROVIDER_CUT,
        )
        due = bill([delivery], hold.amount_pusd)
    return Settlement(
        request_id=hold.request_id,
        account_id=hold.account_id,
        tenant_id=hold.tenant_id,
        key_id=hold.key_id,
        hold_pusd=hold.amount_pusd,
        bill=due,
        state="expired",
        endpoint=hold.endpoint,
        surface=None,
        model=None,
        region=None,
        attempts=b"[]",
        total_ms=hold.age_ms,
        upstream_contacted=hold.endpoint is not None,
        answer=Answer(whole=False),
    )
