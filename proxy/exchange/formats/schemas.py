"""The schemas that callers want answers to fit: refused where they are none, and tried on answers."""

from collections import OrderedDict
from hashlib import sha256
from typing import Any

import orjson

from providers.formats.response_format import JsonFormat
from providers.formats.schema import BadSchema, Problem
from proxy.entry.api_errors import ApiError
from proxy.exchange.formats.checkers import NOT_CHECKED, Checkers, CheckLimits, Unchecked
from proxy.surfaces.surface import Surface, SurfaceRequest

MOST_SOUND = 1_024
NO_OBJECT = "is not a JSON object"


class Schemas:
    """What requests ask about schemas. The first one starts a process; `sound` ones are not asked about again."""

    def __init__(self, limits: CheckLimits | None = None) -> None:
        self._checkers = Checkers(limits or CheckLimits())
        self._sound: OrderedDict[bytes, None] = OrderedDict()  # digests

    async def check_schema(self, schema: Any, tenant_id: int) -> None:
        """Raises BadSchema. What could not be checked passes: answers to it are then said to be unchecked."""
        source = source_of(schema)
        digest = sha256(source).digest()
        if digest not in self._sound:
            try:
                await self._checkers.check(source, b"", tenant_id)
            except Unchecked:
                return
            self._sound[digest] = None
            if len(self._sound) > MOST_SOUND:
                self._sound.popitem(last=False)
        self._sound.move_to_end(digest)

    async def problem(self, wanted: JsonFormat, text: str, tenant_id: int) -> Problem | None:
        """Why `text` is not what was wanted, or one of `checkers.UNCHECKED`; None where it is."""
        if not text.strip():
            return Problem("is empty")
        if wanted.schema is None:
            return object_problem(text)
        encoded = text.encode(errors="surrogatepass")  # which is then no JSON
        try:
            return await self._checkers.check(source_of(wanted.schema), encoded, tenant_id)
        except Unchecked as error:
            return error.problem
        except BadSchema:  # nobody was free to say so when the request came
            return NOT_CHECKED

    async def close(self) -> None:
        await self._checkers.close()


def source_of(schema: Any) -> bytes:
    """As JSON. Raises BadSchema."""
    try:
        return orjson.dumps(schema)
    except orjson.JSONEncodeError:
        raise BadSchema("is nested too deeply") from None


def object_problem(text: str) -> Problem | None:
    try:
        return None if isinstance(orjson.loads(text), dict) else Problem(NO_OBJECT)
    except orjson.JSONDecodeError as error:
        return Problem(f"is not valid JSON: {error}")


async def check_format(schemas: Schemas, asked: SurfaceRequest, surface: Surface, tenant_id: int) -> None:
    """Refuse a schema that is none, by the name under which the caller gave it. Raises ApiError."""
    wanted = asked.chat.format
    if wanted is None or wanted.schema is None:
        return
    try:
        await schemas.check_schema(wanted.schema, tenant_id)
    except BadSchema as error:
        param = surface.schema_param
        where = f" (at {error.path})" if error.path else ""
        raise ApiError("invalid_request", f"{param} {error.message}{where}", param=param) from None
