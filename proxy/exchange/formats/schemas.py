"""The schemas that callers want answers to fit: refused where they are none, and tried on answers in bounded time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson

from providers.formats.response_format import JsonFormat
from providers.formats.schema import BadSchema, Checker, Problem, TooCostly, full_budget, make_checker, small_budget
from proxy.entry.api_errors import ApiError
from proxy.surfaces.surface import Surface, SurfaceRequest

T = TypeVar("T")

MOST_SCHEMAS = 64
SMALL_TEXT = 4_000  # characters; what is longer is checked in a thread
CHECKING_THREADS = 2
TOO_COSTLY = Problem("could not be checked: its schema asks for too much")
NO_OBJECT = "is not a JSON object"


class Schemas:
    """The schemas in use, each made ready once, and the threads in which the costly ones are tried."""

    def __init__(self) -> None:
        self._ready: OrderedDict[bytes, Checker] = OrderedDict()
        self._threads = ThreadPoolExecutor(CHECKING_THREADS, thread_name_prefix="schemas")

    async def checker(self, schema: Any) -> Checker:
        """Raises BadSchema."""
        source = orjson.dumps(schema)
        checker = self._ready.get(source)
        if checker is None:
            checker = await self._in_thread(make_checker, source)
            self._ready[source] = checker
            if len(self._ready) > MOST_SCHEMAS:
                self._ready.popitem(last=False)
        else:
            self._ready.move_to_end(source)
        return checker

    async def problem(self, wanted: JsonFormat, text: str) -> Problem | None:
        """Why `text` is not what was wanted; None where it is."""
        if not text.strip():
            return Problem("is empty")
        if wanted.schema is None:
            return object_problem(text)
        checker = await self.checker(wanted.schema)
        try:
            if len(text) <= SMALL_TEXT:
                return checker.problem(text, small_budget(time.monotonic))
        except TooCostly:
            pass  # on this thread, which has others waiting
        try:
            return await self._in_thread(checker.problem, text, full_budget(text, time.monotonic))
        except TooCostly:
            return TOO_COSTLY

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def object_problem(text: str) -> Problem | None:
    try:
        return None if isinstance(orjson.loads(text), dict) else Problem(NO_OBJECT)
    except orjson.JSONDecodeError as error:
        return Problem(f"is not valid JSON: {error}")


async def check_format(schemas: Schemas, call: SurfaceRequest, surface: Surface) -> None:
    """Refuse a schema that is none, by the name under which the caller gave it. Raises ApiError."""
    wanted = call.chat.format
    if wanted is None or wanted.schema is None:
        return
    try:
        await schemas.checker(wanted.schema)
    except BadSchema as error:
        param = surface.schema_param
        where = f" (at {error.path})" if error.path else ""
        raise ApiError("invalid_request", f"{param} {error.message}{where}", param=param) from None
