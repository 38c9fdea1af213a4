"""Reports of attempts for tests of what is made of them; every fact can be said otherwise."""

from typing import Any

from ledger.billing import Bill, Tokens, bill
from proxy.exchange.meter import AttemptReport, Reading
from proxy.exchange.settlement import Counted, delivery
from proxy.routing.route import Candidate
from tests.proxy.routing.routes import candidate

ENOUGH_PUSD = 10**12


def reading(content: str = "", reasoning: str = "", calls: str = "") -> Reading:
    """What a meter shows when each of the texts came in one piece."""
    texts = [text.encode() for text in (reasoning, content, calls)]
    return Reading(sum(map(bool, texts)), int(bool(reasoning)), *texts)


def report(endpoint: str | Candidate = "here", started_s: float = 0.0, **facts: Any) -> AttemptReport:
    """Of an attempt that was begun and of which nothing has come; `endpoint` by its name, or a whole candidate."""
    chosen = candidate(endpoint) if isinstance(endpoint, str) else endpoint
    return AttemptReport(chosen, started_s, **{"connected": True, **facts})


def answered(endpoint: str | Candidate = "here", content: str = "Hello", **facts: Any) -> AttemptReport:
    """A whole answer to a client's stream, whose first content came after 0.5 s and whose end after 1 s."""
    usual: dict[str, Any] = {
        "reading": reading(content),
        "first_content_s": 0.5,
        "ended_s": 1.0,
        "status": 200,
        "finish_reason": "stop",
        "done": True,
        "finished": True,
        "delivered": True,
        "streamed": True,
    }
    return report(endpoint, **usual | facts)


def bill_of(*reports: AttemptReport, tokens: Tokens | None = None) -> Bill:
    """What is charged when each of `reports` counts `tokens`, which are 10 and 5 unless said otherwise."""
    counted = Counted(tokens or Tokens(10, completion=5), exactly=True)
    return bill([delivery(each, counted, client_left=False) for each in reports], ENOUGH_PUSD)
