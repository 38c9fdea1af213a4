"""Reports of attempts, requests, keys and a clock, for tests of what is made of them; any field can be said otherwise.

Instants are seconds of a `Clock` that moves only when a test says so.
"""

import dataclasses
from typing import Any

from ledger.keys import KeyRecord
from ledger.prices import Price
from providers.chat_request import ChatRequest, Reasoning
from providers.events import Failure, FailureKind, Usage
from providers.means import UNAIDED, Enforcer, Means
from proxy.exchange.meter import AttemptReport, Reading
from proxy.routing.route import Candidate, Route
from tests.proxy.routing.routes import endpoint

SELL = Price(version_id=1, input_pusd=1_000, output_pusd=3_000, cached_input_pusd=100)
BUY = Price(version_id=2, input_pusd=800, output_pusd=2_000, cached_input_pusd=80)

BY_ENGINE = Means(enforcer=Enforcer.ENGINE)
BY_PROVIDER = Means(enforcer=Enforcer.PROVIDER)
BY_PROMPT = Means(enforcer=Enforcer.PROMPT)
TOOLS_AS_TEXT = Means(tools_in_prompt=True)

TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


class Clock:
    """Tells seconds."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def candidate(
    name: str = "first", *, sell: Price = SELL, buy: Price = BUY, means: Means = UNAIDED, **settings: Any
) -> Candidate:
    return Candidate(endpoint(name, **settings), sell, buy, 1.0, "not measured yet", means)


def route(*candidates: Candidate) -> Route:
    return Route(candidates, ())


def chat(content: str = "Hello", **fields: Any) -> ChatRequest:
    """One message of the user; what is no field of a ChatRequest is one of its parameters."""
    own = {
        each.name: fields.pop(each.name)
        for each in dataclasses.fields(ChatRequest)
        if each.init and each.name in fields
    }
    own = {"messages": [{"role": "user", "content": content}], "max_tokens": None, "stream": True} | own
    return ChatRequest(
        **{"parameters": fields, "include_usage": False, "reasoning": Reasoning(), "model": "hermes-4-405b"} | own
    )


def reading(content: str = "", reasoning: str = "", calls: str = "", *, pieces: int | None = None) -> Reading:
    """A word is a piece, unless `pieces` says how many there were."""
    thoughts = len(reasoning.split())
    words = thoughts + len(content.split()) + len(calls.split()) if pieces is None else pieces
    return Reading(words, thoughts, reasoning.encode(), content.encode(), calls.encode())


def report(where: Candidate | None = None, **fields: Any) -> AttemptReport:
    """Began at 10 s, had its first content at 11 s and answered in full, streamed to the client, by 12 s."""
    answered: dict[str, Any] = {
        "candidate": where or candidate(),
        "started_s": 10.0,
        "reading": reading("The herald carries a staff."),
        "first_content_s": 11.0,
        "ended_s": 12.0,
        "status": 200,
        "finish_reason": "stop",
        "usage": Usage(26, 5),
        "done": True,
        "finished": True,
        "delivered": True,
        "connected": True,
        "streamed": True,
    }
    return AttemptReport(**answered | fields)


def failed(kind: FailureKind = FailureKind.CUT, where: Candidate | None = None, **fields: Any) -> AttemptReport:
    """The same, but it failed with nothing of an answer."""
    nothing: dict[str, Any] = {
        "failure": Failure(kind, "their own words"),
        "reading": Reading(),
        "first_content_s": None,
        "finish_reason": None,
        "usage": None,
        "done": False,
        "finished": False,
        "delivered": False,
    }
    return report(where, **nothing | fields)


def cut(content: str, where: Candidate | None = None, **fields: Any) -> AttemptReport:
    """The same, but the provider ended it behind `content`, of which the client has some."""
    some = {"reading": reading(content), "first_content_s": 11.0, "delivered": True}
    return failed(FailureKind.CUT, where, **some | fields)


def key(**fields: Any) -> KeyRecord:
    """Without limits, on no price plan."""
    unlimited: dict[str, Any] = {
        "key_id": 3,
        "tenant_id": 2,
        "account_id": 1,
        "tenant_name": "acme",
        "key_name": "first",
        "plan": None,
        "jurisdictions": None,
        "credit_limit_pusd": 0,
        "internal": False,
        "suspended": False,
        "revoked": False,
        "expires_at": None,
        "rpm": None,
        "tpm": None,
        "concurrency": None,
        "budget_pusd": None,
        "stream_usage": "asked",
        "reasoning_format": "reasoning",
        "continuation": True,
    }
    return KeyRecord(**unlimited | fields)
