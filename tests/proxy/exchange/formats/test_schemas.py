"""Schemas are tried in processes: whatever one asks for, it is answered, and so is the next request."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from providers.formats.response_format import JsonFormat
from providers.formats.schema import MOST_SCHEMA_BYTES, BadSchema
from proxy.exchange.formats.checkers import NOT_CHECKED, TOO_COSTLY, Checkers, CheckLimits
from proxy.exchange.formats.schemas import Schemas

ROOT = Path(__file__).parents[4]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc, or for a bound of memory that macOS lacks")
GOD = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
HERMES = '{"name": "Hermes"}'
PATIENT = CheckLimits(cpu_s=60, most_cpu_s=60, wall_s=120, wait_s=120)
ENDLESS = ({"pattern": "^(a|aa)+$"}, json.dumps("a" * 100 + "b"))


def with_cpu_s(cpu_s):
    """For a machine that is slow otherwise: the deadlines of the clock are far away."""
    return CheckLimits(cpu_s=cpu_s, cpu_s_a_text_byte=0, wall_s=120, wait_s=120)


@asynccontextmanager
async def opened(limits=PATIENT):
    schemas = Schemas(limits)
    try:
        yield schemas
    finally:
        await schemas.close()


async def problem(schemas, schema, text, tenant_id=1):
    return await schemas.problem(JsonFormat(schema), text, tenant_id)


def pids(schemas):
    return schemas._checkers.pids


async def started(schemas, other_than=()):
    """The ids of processes that are new."""
    while not (new := set(pids(schemas)) - set(other_than)):  # noqa: ASYNC110 (there is no event for it)
        await asyncio.sleep(0.005)
    return new


def is_gone(pid):
    """Also from the table of processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# What a process says is what the schema says


SAID = [
    (GOD, HERMES, None),
    (GOD, '{"name": 1}', ("1 is not of type 'string'", "/name")),
    (GOD, '{"name": ', ("is not valid JSON: unexpected end of data: line 1 column 10 (char 9)", "")),
    (GOD, " ", ("is empty", "")),
    (GOD, '"\ud800"', ("is not valid JSON", "")),
    (True, "1", None),
    (None, "{}", None),
    (None, "[]", ("is not a JSON object", "")),
    ({"pattern": r"^\p{L}+$"}, '"Ἑρμῆς"', None),
    (
        {"anyOf": [{"type": "array"}, {"properties": {"a": {"format": "date", "type": "null"}}}]},
        '{"a": 1}',
        ("1", "/a"),
    ),
    (
        {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {"properties": {"a": {}}}}},
        '{"a": 1}',
        None,
    ),
    ({"patternProperties": {"^a": {}}, "unevaluatedProperties": False}, '{"b": 1}', ("Unevaluated properties are", "")),
]


async def test_what_is_said_of_texts():
    async with opened() as schemas:
        for schema, text, expected in SAID:
            found = await problem(schemas, schema, text)
            if expected is None:
                assert found is None
            else:
                assert (found.message[: len(expected[0])], found.path) == expected


DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]


async def test_every_draft_is_at_hand_although_a_process_can_open_nothing():
    async with opened() as schemas:
        for draft in DRAFTS:
            schema = {"$schema": draft, "$ref": "#/definitions/a", "definitions": {"a": {"enum": ["a", {"b": 1.0}]}}}
            await schemas.check_schema(schema, 1)
            assert await problem(schemas, schema, '{"b": 1}') is None
            assert (await problem(schemas, schema, '"b"')).path == ""
            with pytest.raises(BadSchema, match="'nonsense'"):
                await schemas.check_schema({"$schema": draft, "type": "nonsense"}, 1)
        assert len(pids(schemas)) == 1


async def test_a_bad_schema_is_refused_with_its_place():
    deep = {}
    for _ in range(500):
        deep = {"not": deep}
    async with opened() as schemas:
        for schema, path, message in (
            ({"properties": {"a": {"type": "nonsense"}}}, "/properties/a/type", "'nonsense'"),
            ({"$ref": "http://127.0.0.1:1/"}, "/$ref", "only references within"),
            ({"description": "x" * 1_000_000}, "", f"is larger than {MOST_SCHEMA_BYTES} bytes"),
            (deep, "", "is nested too deeply"),
        ):
            with pytest.raises(BadSchema, match=message) as refused:
                await schemas.check_schema(schema, 1)
            assert refused.value.path == path


async def test_a_sound_schema_is_asked_about_once(monkeypatch):
    asked = []

    async def check(processes, schema, text, tenant_id):
        asked.append(schema)

    monkeypatch.setattr(Checkers, "check", check)
    monkeypatch.setattr("proxy.exchange.formats.schemas.MOST_SOUND", 2)
    async with opened() as schemas:
        for number in (1, 1, 2, 1, 3, 1, 2):
            await schemas.check_schema({"minimum": number}, 1)
    assert [json.loads(schema)["minimum"] for schema in asked] == [1, 2, 3, 2]


async def test_what_is_large_but_honest_is_checked():
    many = {f"p{i}": {"type": "string"} for i in range(2_000)}
    unique = list(range(50_000)) + [[i] for i in range(50_000)]
    async with opened() as schemas:
        assert await problem(schemas, {"properties": many, "required": ["p7"]}, '{"p7": "a"}') is None
        assert await problem(schemas, {"uniqueItems": True}, json.dumps(unique)) is None
        assert (await problem(schemas, {"uniqueItems": True}, json.dumps([*unique, [7]]))).path == ""
        assert await problem(schemas, {"maxLength": 5_000_000}, json.dumps("word " * 1_000_000)) is None
        assert (await problem(schemas, {"maxItems": 9}, json.dumps([1] * 1_000_000))).message == "the array is too long"


# What asks for too much


def doubling(levels):
    """Each level asks the next one twice: two to the power of `levels` questions."""
    steps = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/0", "$defs": {**steps, str(levels): {"type": "string"}}}


NESTED = "[" * 900 + "]" * 900
STOPPED = [
    ENDLESS,
    (doubling(40), "{}"),
    ({"type": "object", "patternProperties": {"^(a|aa)+$": {}}}, json.dumps({"a" * 100 + "b": 1})),
    ({"patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": False}, json.dumps({"a" * 100 + "b": 1})),
    ({"patternProperties": {"^(a|aa)+$": {}}, "unevaluatedProperties": False}, json.dumps({"a" * 100 + "b": 1})),
    ({"unevaluatedItems": {"type": "integer"}}, json.dumps(list(range(100_000)))),
    ({"items": {"allOf": [{"type": "integer"}] * 2_000}}, json.dumps(list(range(20_000)))),
    ({"allOf": [{}] * 10 + [{"oneOf": [doubling(40)["$defs"]["0"]]}], **doubling(40)}, "1"),
]
STUMBLED = [
    ({"$ref": "#"}, "{}"),
    ({"not": {"$ref": "#"}}, "1"),
    ({"unevaluatedItems": False, "$dynamicRef": "#"}, "[1]"),
    ({"unevaluatedProperties": False, "allOf": [{"$ref": "#"}]}, '{"a": 1}'),
    ({"type": "array", "items": {"$ref": "#"}}, NESTED),
    ({"unevaluatedProperties": False, "patternProperties": {r"\p{L}": {}}}, '{"a": 1}'),
]


@pytest.mark.parametrize(("schema", "text"), STOPPED)
async def test_a_check_without_an_end_is_stopped_while_others_go_on(schema, text):
    async with opened(with_cpu_s(0.2)) as schemas:
        assert await problem(schemas, GOD, HERMES) is None
        before = pids(schemas)
        checking = asyncio.create_task(problem(schemas, schema, text))
        turns = 0
        while not checking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert await checking == TOO_COSTLY
        assert turns >= 2, "the loop goes on meanwhile"
        assert await problem(schemas, GOD, HERMES) is None
        assert len(pids(schemas)) == 1
        assert all(map(is_gone, before)), "what was stopped is no process any more"


@pytest.mark.parametrize(("schema", "text"), STUMBLED)
async def test_what_the_library_stumbles_over_is_answered_by_the_same_process(schema, text):
    async with opened() as schemas:
        assert await problem(schemas, GOD, HERMES) is None
        before = pids(schemas)
        assert await problem(schemas, schema, text) == TOO_COSTLY
        assert await problem(schemas, GOD, HERMES) is None
        assert pids(schemas) == before


@LINUX
async def test_memory_has_a_bound():
    bomb = {"anyOf": [{"items": {"const": "x" * 60_000}}]}
    async with opened() as schemas:
        assert await problem(schemas, bomb, json.dumps([1] * 30_000)) == TOO_COSTLY
        assert await problem(schemas, GOD, HERMES) is None


async def test_a_schema_whose_own_check_is_stopped_passes():
    """Its answers are then said to be unchecked."""
    schema = {"properties": {f"{i:x}": {} for i in range(5_500)}}
    async with opened(CheckLimits(cpu_s=0.05, cpu_s_a_schema_byte=0, wall_s=120, wait_s=120)) as schemas:
        await schemas.check_schema(schema, 1)
        assert await problem(schemas, schema, "{}") == TOO_COSTLY


async def test_a_process_that_hangs_is_killed():
    async with opened(CheckLimits(wall_s=3, wait_s=120)) as schemas:
        while await problem(schemas, GOD, HERMES) is not None:
            pass  # a machine that took too long to start one
        (pid,) = pids(schemas)
        os.kill(pid, signal.SIGSTOP)
        assert await problem(schemas, GOD, HERMES) == TOO_COSTLY
    assert is_gone(pid)


# Who waits for whom


async def test_a_tenant_waits_for_its_own_checks_only():
    """Whoever came after six slow checks of one tenant would wait for five of them if places were given in order."""
    async with opened(with_cpu_s(0.5)) as schemas:
        slow = [asyncio.create_task(problem(schemas, *ENDLESS, tenant_id=1)) for _ in range(6)]
        await started(schemas)
        assert await problem(schemas, GOD, HERMES, tenant_id=2) is None
        assert sum(task.done() for task in slow) < 5
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)


async def test_processes_are_bounded_and_taken_in_turn():
    async with opened() as schemas:
        found = await asyncio.gather(*(problem(schemas, GOD, HERMES, tenant_id=i % 10) for i in range(100)))
        assert found == [None] * 100
        assert len(pids(schemas)) == CheckLimits().processes


async def test_who_waits_too_long_is_not_checked():
    async with opened(CheckLimits(cpu_s=60, most_cpu_s=60, wall_s=120, wait_s=0.1)) as schemas:
        endless = asyncio.create_task(problem(schemas, *ENDLESS))
        await started(schemas)
        assert await problem(schemas, GOD, HERMES) == NOT_CHECKED
        await schemas.check_schema({"type": "nonsense"}, 1)
        assert not endless.done()
        endless.cancel()
        await asyncio.wait([endless])


# Processes that die, and those that cannot be started


async def test_a_check_whose_process_is_killed_is_made_by_another():
    async with opened() as schemas:
        checking = asyncio.create_task(problem(schemas, {"uniqueItems": True}, json.dumps(list(range(300_000)))))
        (pid,) = await started(schemas)
        os.kill(pid, signal.SIGKILL)
        assert await checking is None
        assert pids(schemas) != [pid]


async def test_a_check_that_ends_two_processes_is_given_up():
    async with opened() as schemas:
        checking = asyncio.create_task(problem(schemas, *ENDLESS))
        killed = set()
        for _ in range(2):
            for pid in await started(schemas, killed):
                os.kill(pid, signal.SIGSEGV)
                killed.add(pid)
        assert await checking == NOT_CHECKED
        assert await problem(schemas, GOD, HERMES) is None


async def test_processes_that_died_while_idle_are_replaced():
    async with opened() as schemas:
        await asyncio.gather(*(problem(schemas, GOD, HERMES, tenant_id=i) for i in range(2)))
        for pid in pids(schemas):
            os.kill(pid, signal.SIGKILL)
        assert await problem(schemas, GOD, HERMES) is None
        assert await problem(schemas, GOD, HERMES) is None


async def test_a_check_that_nobody_waits_for_is_stopped():
    async with opened() as schemas:
        checking = asyncio.create_task(problem(schemas, *ENDLESS))
        await started(schemas)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        assert await problem(schemas, GOD, HERMES) is None


async def test_without_descriptors_nothing_is_checked_and_nobody_refused():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with opened() as schemas:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            await schemas.check_schema({"type": "nonsense"}, 1)
            assert await problem(schemas, {"type": "nonsense"}, "1") == NOT_CHECKED
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await problem(schemas, {"type": "nonsense"}, "1") == NOT_CHECKED, "the schema was never looked at"
        assert await problem(schemas, GOD, HERMES) is None


async def test_an_interpreter_that_is_gone_or_fails_is_survived(monkeypatch, tmp_path):
    async with opened() as schemas:
        babbler = tmp_path / "python"
        babbler.write_text("#!/bin/sh\necho 'not at all a reply' >&0; exec sleep 60\n")
        babbler.chmod(0o755)
        for executable in ("/nowhere/python", "/bin/false", str(babbler)):
            monkeypatch.setattr(sys, "executable", executable)
            assert await problem(schemas, GOD, HERMES) == NOT_CHECKED
        monkeypatch.undo()
        assert await problem(schemas, GOD, HERMES) is None


# What a process is, and its end


async def test_it_is_started_from_anywhere(monkeypatch, tmp_path):
    for name in ("orjson", "regex", "proxy", "struct"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    async with opened() as schemas:
        assert await problem(schemas, GOD, HERMES) is None


@LINUX
async def test_it_holds_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("CADUCEUS_SECRET", "of ours")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        async with opened() as schemas:
            assert await problem(schemas, GOD, HERMES) is None
            (pid,) = pids(schemas)
            place = Path(f"/proc/{pid}")
            assert b"SECRET" not in (place / "environ").read_bytes()
            assert {link.name for link in (place / "fd").iterdir()} == {"0", "1", "2"}
            limits = (place / "limits").read_text()
            assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [
                ["0", "0"]
            ]
    finally:
        os.close(read)
        os.close(write)


async def test_closing_leaves_no_process():
    async with opened() as schemas:
        checking = asyncio.create_task(problem(schemas, *ENDLESS, tenant_id=1))
        await started(schemas)
        assert await problem(schemas, GOD, HERMES, tenant_id=2) is None
        left = pids(schemas)
        assert len(left) == 2
        await schemas.close()
        assert all(map(is_gone, left))
        assert await checking == NOT_CHECKED
        assert await problem(schemas, GOD, HERMES) == NOT_CHECKED
        assert pids(schemas) == []


PARENT = """
import asyncio, os, signal
from providers.formats.response_format import JsonFormat
from proxy.exchange.formats.checkers import CheckLimits
from proxy.exchange.formats.schemas import Schemas

async def main():
    schemas = Schemas(CheckLimits(wait_s=120, wall_s=120))
    assert await schemas.problem(JsonFormat({}), "1", 1) is None
    print(*schemas._checkers.pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@LINUX
def test_it_ends_with_its_parent():
    done = subprocess.run([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(1_000):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                break  # an orphan, which pid 1 has yet to collect
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.02)
    else:
        pytest.fail("it is still there")
