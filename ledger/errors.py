"""What the ledger refuses, and why.

LedgerError
├── MoneyError            a text that is no exact amount or price (also a ValueError)
│   └── PriceNotWhole     finer than one pico-dollar a token
├── NoPrice               tokens were delivered where no price holds: an error, not a gift
├── Refused               an administrative wish that cannot be granted; the message says what to do
│   ├── NotFound          no such tenant, key, plan, price or invoice
│   └── Conflict          it exists already, with other contents
├── WriteRefused          Postgres rejected this one row; the rest of its batch was committed
│   ├── HoldRefused
│   └── SettlementRefused
├── LedgerUnavailable     Postgres does not answer
├── NotMigrated           the schema is one that `caduceus migrate` brings to this version
└── OldSchema             the tables are a development version's, from which no migration leads on
"""

from uuid import UUID


class LedgerError(Exception):
    """The root. The text of every error is one line."""


class MoneyError(LedgerError, ValueError):
    """`text` is not an exact decimal amount."""

    def __init__(self, text: object, reason: str) -> None:
        self.text = text
        super().__init__(f"{text!r} {reason}")


class PriceNotWhole(MoneyError):
    """A price finer than a whole number of pico-dollars per token."""

    def __init__(self, text: str) -> None:
        super().__init__(
            text, "is no whole number of pico-dollars a token; give USD per 1M tokens with at most 6 decimals"
        )


class NoPrice(LedgerError):
    """Nothing can be charged for tokens that `endpoint` delivered."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(f"endpoint {endpoint} delivered tokens but has no price; set one with `caduceus price set`")


class Refused(LedgerError):
    """An administrative wish cannot be granted; the text says what to do."""


class NotFound(Refused):
    """There is no `kind` (tenant, key, plan, …) called `name`."""

    def __init__(self, kind: str, name: object, hint: str = "") -> None:
        self.kind, self.name = kind, name
        super().__init__(f"there is no {kind} {name}{f'; {hint}' if hint else ''}")


class Conflict(Refused):
    """It exists already, with other contents."""


class WriteRefused(LedgerError):
    """Postgres rejected the row of `request_id`; `reason` is its message."""

    def __init__(self, request_id: UUID, reason: str) -> None:
        self.request_id, self.reason = request_id, reason
        super().__init__(f"the ledger refused request {request_id}: {reason}")


class HoldRefused(WriteRefused):
    pass


class SettlementRefused(WriteRefused):
    pass


class LedgerUnavailable(LedgerError):
    """Postgres did not answer in time. A settlement that was handed over stays queued and is posted later."""


class NotMigrated(LedgerError):
    """`found` is the database's revision, None where there is none; equal to `wanted` where only functions differ."""

    def __init__(self, found: str | None, wanted: str) -> None:
        self.found, self.wanted = found, wanted
        state = f"at revision {found}" if found else "empty"
        if found == wanted:
            state += " with the functions of another version"
        super().__init__(f"the database is {state}, this program needs revision {wanted}; run `caduceus migrate`")


class OldSchema(LedgerError):
    """Nothing was changed. `advice` says where to start anew."""

    def __init__(
        self, advice: str = "create an empty database, name it in `database.url`, and run `caduceus migrate`"
    ) -> None:
        super().__init__(f"the database was made by another development version and is left as it is; {advice}")
