"""Break a module in one small place at a time and see whether its tests notice: `python -m tests.mutate [FILE …]`.

A mutant is the module with one operator, number, condition or list element changed (`edits`). It is written into a
copy of the project, where a forked child runs the tests of the mirrored file (those of `ledger/billing.py` are in
`tests/ledger/test_billing.py`), except those that need a fixture of a `conftest.py`, hence sockets or a database.

A mutant that no test kills is a survivor. The exit status is 1 if a survivor has no excuse in
`tests/mutation_excuses.toml`, or an excuse no survivor.
"""

import ast
import gc
import importlib.util
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXCUSES = ROOT / "tests" / "mutation_excuses.toml"
TARGETS = (
    "ledger/billing.py",
    "ledger/prices.py",
    "proxy/routing/route.py",
    "proxy/routing/observations.py",
    "proxy/exchange/policy.py",
    "proxy/exchange/settlement.py",
    "proxy/exchange/planning.py",
    "proxy/exchange/continuation.py",
)
PACKAGES = ("providers", "ledger", "selfhost", "proxy", "migrations", "tests")
# Without those parts of pytest that take more time than the tests.
OPTIONS = ["-x", "-q", "--noconftest", "--tb=line", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already
SURVIVED, NO_TESTS = int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED)
KILLED = (int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.INTERRUPTED), -signal.SIGALRM)
WRONG_MODULE = 99  # exit status of a child whose tests imported another module than the mutant
TIMEOUT_S = 60  # a mutant that hangs is killed
MEMORY_BYTES = 4 << 30  # and so is one that grows without end


# From a module to its mutants

# What a comparison becomes: one with another edge, then the opposite.
COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGERS = {"log", "logger", "logging"}
PLAIN = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.NamedExpr  # conditions without an operator to flip

Edit = tuple[int, int, str]  # the bytes from, to, and what stands there instead


@dataclass(frozen=True, slots=True)
class Mutant:
    """`where`: the innermost function or class. `changed`: the line as it reads in the mutant."""

    where: str
    line_number: int
    line: str
    changed: str
    source: bytes

    @property
    def name(self) -> str:
        return f"{self.where}: {self.changed}" if self.where else self.changed


def mutants(source: bytes) -> Iterator[Mutant]:
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:index])) for index in range(len(lines))]
    for where, node in nodes(ast.parse(source)):
        for start, end, new in edits(node, source, starts):
            index = sum(line_start <= start for line_start in starts) - 1
            mutated = source[:start] + new.encode() + source[end:]
            ast.parse(mutated)
            line, changed = (text.splitlines()[index].decode().strip() for text in (source, mutated))
            yield Mutant(where, index + 1, line, changed, mutated)


def nodes(node: ast.AST, where: str = "") -> Iterator[tuple[str, ast.AST]]:
    """All that can change what the module does: no types, no decorators, no text for people, no `zip(strict=True)`."""
    match node:
        case ast.JoinedStr() | ast.FunctionDef(name="__repr__") | ast.keyword(arg="strict"):
            return
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            return
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))) if name in LOGGERS:
            return
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            where = name
    yield where, node
    for field, value in ast.iter_fields(node):
        if field not in {"annotation", "returns", "decorator_list"}:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from nodes(child, where)


def edits(node: ast.AST, source: bytes, starts: list[int]) -> Iterator[Edit]:  # noqa: PLR0912 (a table of rules)
    """What can be broken at this node itself; the nodes below it have their own edits."""

    def span(of: Any) -> tuple[int, int]:
        return starts[of.lineno - 1] + of.col_offset, starts[of.end_lineno - 1] + of.end_col_offset

    def text(of: ast.AST) -> str:
        start, end = span(of)
        return source[start:end].decode()

    def between(left: ast.AST, right: ast.AST, old: str, new: str) -> Edit:
        start = source.rindex(old.encode(), span(left)[1], span(right)[0])
        return start, start + len(old), new

    def negated(condition: ast.AST) -> Edit:
        return *span(condition), f"not ({text(condition)})"

    def one_missing(elements: list[Any]) -> Iterator[Edit]:
        """Its neighbour takes the place of the missing element, so that the length remains."""
        if len(elements) > 1:
            for element, neighbour in zip(elements, elements[1:] + elements[:1], strict=True):
                yield *span(element), text(neighbour)

    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for before, op, after in zip([left, *comparators], ops, comparators, strict=False):
                old, flipped = COMPARISONS[type(op)]
                for new in flipped:
                    yield between(before, after, old, new)
        case ast.BoolOp(op=op, values=values):
            for before, after in pairwise(values):
                yield between(before, after, *OPERATORS[type(op)])
        case ast.UnaryOp(op=ast.Not()):
            start, _ = span(node)
            yield start, start + len("not "), ""
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            yield between(left, right, *OPERATORS[type(op)])
        case ast.AugAssign(target=left, op=ast.Add() | ast.Sub() as op, value=right):
            yield between(left, right, *OPERATORS[type(op)])
        case ast.Constant(value=bool() as value):
            yield *span(node), str(not value)
        case ast.Constant(value=int() as value):
            yield *span(node), str(value + 1)
        case ast.Constant(value=float() as value):
            yield *span(node), f"{value * 1.5 or 1.0:g}"
        case ast.Call(func=ast.Name(id=name) as function) if name in FUNCTIONS:
            yield *span(function), FUNCTIONS[name]
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if isinstance(test, PLAIN):
            yield negated(test)
        case ast.comprehension(ifs=tests):
            yield from [negated(test) for test in tests if isinstance(test, PLAIN)]
        case ast.FunctionDef(returns=ast.Name(id="bool")):
            returned = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)]
            yield from [negated(value) for value in returned if isinstance(value, PLAIN | ast.BoolOp)]
        case ast.MatchOr(patterns=patterns):
            yield from one_missing(patterns)
        case ast.Set(elts=elements) | ast.List(elts=elements) | ast.Tuple(elts=elements):
            if not isinstance(getattr(node, "ctx", None), ast.Store) and all(map(is_name_or_text, elements)):
                yield from one_missing(elements)


def is_name_or_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


# From a mutant to its end


class SocketFree:
    """A plugin that leaves out tests that ask for a fixture of a `conftest.py`: none of those is loaded."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if {"request", *item._fixtureinfo.name2fixturedefs} >= {*item.fixturenames}]


def tests_of(target: str) -> str:
    path = Path(target)
    return f"tests/{path.parent}/test_{path.name}"


def module_name(target: str) -> str:
    return target.removesuffix(".py").replace("/", ".")


def run_tests(target: str) -> int:
    return int(pytest.main([*OPTIONS, tests_of(target)], plugins=[SocketFree()]))


def run_unbroken(target: str) -> int:
    """Run the tests without a mutant. What they import remains for the children, except the project itself."""
    sys.dont_write_bytecode = False
    status = run_tests(target)
    sys.dont_write_bytecode = True  # a mutant's would be taken for the next one's: same size, same second
    Path(importlib.util.cache_from_source(target)).unlink(missing_ok=True)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    gc.freeze()
    return status


def run_in_child(target: str, number: int) -> int:
    """The exit status of a forked child that runs the tests with the mutant that ends in `__mutant__ = number`."""
    child = os.fork()
    if child == 0:
        status = WRONG_MODULE
        try:
            signal.alarm(TIMEOUT_S)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            found = run_tests(target)
            if found != SURVIVED or sys.modules[module_name(target)].__mutant__ == number:
                status = found
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def survivors(target: str) -> tuple[int, list[Mutant]]:
    """How many mutants there are, and those that no test kills."""
    path = Path(target)
    source = path.read_bytes()
    number, found = 0, []
    for number, mutant in enumerate(mutants(source), 1):
        path.write_bytes(mutant.source + f"\n__mutant__ = {number}\n".encode())
        status = run_in_child(target, number)
        assert status in (SURVIVED, *KILLED), f"exit status {status}: {mutant.name}"
        if status == SURVIVED:
            found.append(mutant)
    path.write_bytes(source)
    return number, found


def examine(target: str, excuses: dict[str, str]) -> bool:
    """Whether every mutant is killed or excused. `excuses`: the reasons by the names of mutants."""
    begin_s = time.monotonic()
    status = run_unbroken(target) if Path(tests_of(target)).exists() else NO_TESTS
    if status == NO_TESTS:
        print(f"{target}: no tests without sockets in {tests_of(target)}")
        return False
    if status != SURVIVED:
        print(f"{target}: its tests fail without a mutant")
        return False
    tried, found = survivors(target)
    unexcused = [mutant for mutant in found if mutant.name not in excuses]
    stale = sorted(excuses.keys() - {mutant.name for mutant in found})
    elapsed_s = time.monotonic() - begin_s
    print(f"{target}: {tried} mutants, {len(found) - len(unexcused)} excused, {len(unexcused)} not, {elapsed_s:.0f} s")
    for mutant in unexcused:
        print(f"  line {mutant.line_number}: {mutant.line}\n  survives as: {mutant.name}")
    for name in stale:
        print(f"  an excuse without a survivor: {name}")
    return not unexcused and not stale


def main(targets: list[str]) -> int:
    excuses: dict[str, dict[str, str]] = tomllib.loads(EXCUSES.read_text())
    if missing := sorted(path for path in {*targets, *excuses} if not (ROOT / path).is_file()):
        sys.exit(f"there is no {', no '.join(missing)}")
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # one example that fails is enough
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")
    with tempfile.TemporaryDirectory() as copy:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, Path(copy, package), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        os.chdir(copy)
        sys.path[0] = copy  # before the checkout, which is installed as editable
        passed = [examine(target, excuses.get(target, {})) for target in targets]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TARGETS)))
