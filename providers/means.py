"""By what means an endpoint serves a request: with what it can do itself, or with words in its prompt."""

from dataclasses import dataclass
from enum import Enum


class Enforcer(Enum):
    """What makes an answer the JSON that the request wants."""

    ENGINE = "the endpoint's grammar lets no other token pass"
    PROVIDER = "the endpoint says that it does, and the answer is checked"
    PROMPT = "the prompt asks for it, and the answer is checked"


@dataclass(frozen=True, slots=True)
class Means:
    """How one endpoint serves one request. `Adapter.means` decides it, once for each endpoint of a route.

    `tools_in_prompt`: the endpoint has no tools, so its prompt tells of them (and of calls and results in the history),
    and calls are read out of the answer's text. `enforcer` is None where the request wants no JSON. `opening` is the
    beginning of the answer that the endpoint is given to go on from, where it must call a tool; empty elsewhere.
    """

    tools_in_prompt: bool = False
    enforcer: Enforcer | None = None
    opening: str = ""

    @property
    def emulated(self) -> bool:
        """Whether the prompt has to do what the endpoint cannot."""
        return self.tools_in_prompt or self.enforcer is Enforcer.PROMPT


UNAIDED = Means()
"""The endpoint does everything itself, and no JSON is wanted."""
