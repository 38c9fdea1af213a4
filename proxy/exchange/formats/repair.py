"""Answers that must be JSON, once they are over: checked, and one more try for a plain one that does not fit."""

from collections.abc import Awaitable, Callable

from providers.chat_request import ChatRequest
from providers.formats.prompt import ask_again
from providers.formats.schema import Problem
from proxy.exchange.formats.checkers import UNCHECKED
from proxy.exchange.formats.json_outlet import JsonOutlet

Check = Callable[[str], Awaitable[Problem | None]]
"""Tells why a text is not the JSON that is wanted; None where it is."""
Ask = Callable[[ChatRequest], Awaitable[str | None]]
"""Asks an endpoint for a corrected answer: its JSON, None where none came or it may not be asked."""


async def check_and_repair(shaped: JsonOutlet, chat: ChatRequest, check: Check, ask: Ask) -> None:
    """Close `shaped`, have its text made good once where it can be, and write the end of every choice.

    A text that does not fit and could not be repaired ends with `schema_error`.
    """
    texts = shaped.close()
    problems: dict[int, Problem] = {}
    for index, text in texts.items():
        if problem := await check(text):
            problems[index] = problem
    if problems and shaped.repairable and UNCHECKED.isdisjoint(problems.values()):
        ((index, problem),) = problems.items()
        better = await ask(ask_again(chat, texts[index], problem))
        if better is not None and await check(better) is None:
            texts[index], problems = better, {}
    shaped.conclude(texts, problems)
