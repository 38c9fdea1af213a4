"""The model, the names it goes by, and where it is served at which prices."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ledger.prices import PriceBook
from proxy.routing.endpoints import Endpoint
from proxy.routing.route import Offer


@dataclass(frozen=True, slots=True)
class Catalogue:
    """`prices` and `now` tell the price book and the database's clock as this process knows them."""

    model: str
    aliases: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    prices: Callable[[], PriceBook]
    now: Callable[[], datetime]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model, *self.aliases)

    def offers(self, plan: str | None) -> list[Offer]:
        """Every endpoint with what a tenant on `plan` pays there and what it costs, as of now."""
        now, book = self.now(), self.prices()
        return [
            Offer(endpoint, book.tenant_price(plan, endpoint.name, now), book.endpoint_price(endpoint.name, now))
            for endpoint in self.endpoints
        ]
