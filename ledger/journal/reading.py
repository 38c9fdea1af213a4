"""What a serving process reads: keys, claims and the price book."""

from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ledger.keys import KeyRecord
from ledger.prices import Plan, Price, PriceBook, PriceVersion

FIND_KEY = """
SELECT api_key.id, api_key.tenant_id, account.id AS account_id, tenant.name AS tenant_name, api_key.name AS key_name,
    tenant.plan, tenant.jurisdictions, tenant.credit_limit_pusd, tenant.internal, tenant.suspended,
    api_key.revoked_at IS NOT NULL AS revoked, api_key.expires_at, api_key.rpm, api_key.tpm, api_key.concurrency,
    api_key.budget_pusd, api_key.stream_usage, api_key.reasoning_format, api_key.continuation
FROM api_key
JOIN tenant ON tenant.id = api_key.tenant_id
JOIN account ON account.tenant_id = tenant.id
WHERE api_key.digest = $1
"""


FIND_CLAIM = """
SELECT request_id, body, finished_at IS NOT NULL AS finished, answer AS sealed FROM claim
WHERE id = $1 AND (finished_at IS NULL OR finished_at > clock_timestamp() - claim_kept())
"""


@dataclass(frozen=True, slots=True)
class ClaimFound:
    """A claim: the request that made it, the digest of what that asked and, once `finished`, the answer if kept."""

    request_id: UUID
    body: bytes
    finished: bool
    sealed: bytes | None


async def load_claim(connection: asyncpg.Connection, claim_id: bytes) -> ClaimFound | None:
    row = await connection.fetchrow(FIND_CLAIM, claim_id)
    return None if row is None else ClaimFound(**row)


async def load_key(connection: asyncpg.Connection, digest: bytes) -> KeyRecord | None:
    row = await connection.fetchrow(FIND_KEY, digest)
    if row is None:
        return None
    values = dict(row)
    jurisdictions = values.pop("jurisdictions")
    return KeyRecord(
        key_id=values.pop("id"),
        jurisdictions=None if jurisdictions is None else frozenset(jurisdictions),
        **values,
    )


async def load_price_book(connection: asyncpg.Connection) -> PriceBook:
    versions: dict[tuple[str, str], list[PriceVersion]] = defaultdict(list)
    for row in await connection.fetch("SELECT * FROM price"):
        price = Price(row["id"], row["input_pusd"], row["output_pusd"], row["cached_input_pusd"])
        versions[row["subject_kind"], row["subject"]].append(PriceVersion(row["starts_at"], price))
    plans = [
        Plan(row["name"], row["markup_ppm"], tuple(versions["plan", row["name"]]))
        for row in await connection.fetch("SELECT name, markup_ppm FROM plan")
    ]
    return PriceBook({name: found for (kind, name), found in versions.items() if kind == "endpoint"}, plans)
