"""What must be true of the ledger before anybody serves: migrated, and for the demo a tenant with a key.

Done in a process of its own: the machinery of migrations and administration has no place in a serving process.
"""

import asyncio
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import LedgerError, OldSchema
from proxy.errors import CaduceusError, CommandError

TENANT = "default"
CREDIT_USD = "10.00"
KEY_FILE = "demo-key"
OLD_SCHEMA_STATUS = 3


@dataclass(frozen=True, slots=True)
class Preparation:
    """Where the ledger is, as whom it is migrated, and where the demo's key is kept (None: no demo)."""

    url: str
    migrate_url: str
    secret_key: bytes
    demo_dir: Path | None


def prepare(preparation: Preparation) -> None:
    """Raises OldSchema, and CommandError where it could not be done otherwise; stderr then says why."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(preparation,), name="preparation")
    process.start()
    process.join()
    if process.exitcode == OLD_SCHEMA_STATUS:
        raise OldSchema
    if process.exitcode:
        raise CommandError("the ledger could not be prepared; nothing is served")


def run(preparation: Preparation) -> None:
    from ledger.journal.migrate import upgrade

    try:
        upgrade(preparation.migrate_url)
        if preparation.demo_dir is not None and not (preparation.demo_dir / KEY_FILE).exists():
            asyncio.run(make_tenant(preparation, preparation.demo_dir / KEY_FILE))
    except OldSchema:
        sys.exit(OLD_SCHEMA_STATUS)
    except (LedgerError, CaduceusError) as error:
        print(f"caduceus: {error}", file=sys.stderr)
        sys.exit(1)


async def make_tenant(preparation: Preparation, key_file: Path) -> None:
    from ledger.accounts.administration import administration
    from ledger.accounts.api_keys import create_key
    from ledger.accounts.credit import add_credit
    from ledger.accounts.tenants import create_tenant, list_tenants
    from ledger.money import parse_usd
    from proxy.secrets import write_once

    async with administration(preparation.url) as db:
        if TENANT not in {tenant.name for tenant in await list_tenants(db)}:
            await create_tenant(db, TENANT, actor="demo")
        await add_credit(db, TENANT, parse_usd(CREDIT_USD), reference="demo", actor="demo", kind="granted")
        _, key = await create_key(db, TENANT, preparation.secret_key, actor="demo", name="demo")
        # Within the transaction: a key that could not be kept is not made.
        write_once(key_file, key)
