"""Docstrings, comments and manuals name only code that exists.

A reference stands in backticks and looks like a path (`proxy/config.py`), a dotted name (`config.Settings`), a call
(`load_settings()`) or a class (`Settings`). It is looked up in the syntax trees; none of the code is imported.
"""

import ast
import builtins
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("providers", "ledger", "selfhost", "proxy", "bench", "migrations", "tests")
ENTRIES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in [ROOT / folder, *(ROOT / folder).rglob("*")])
SOURCES = [Path("bootstrap.py"), *(path for path in ENTRIES if path.suffix == ".py")]
PAPERS = [Path("README.md"), Path("ARCHITECTURE.md"), Path("CONTRIBUTING.md"), Path("bench/README.md")]
MANUALS = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))

PATH = re.compile(r"(?:[\w*-]+/)+[\w*-]*(?:\.(?:py|sql|json))?|[\w*]+\.(?:py|sql|json)")
DOTTED = re.compile(r"([\w/]+(?:\.\w+)+)(?:\(.*\))?")
CALL = re.compile(r"(\w+)\(.*\)")
CLASS = re.compile(r"[A-Z]\w*[a-z]\w*")

# What looks like a name of ours and is none: fields on the wire, columns of tables, files, fixtures, other libraries.
FOREIGN = {
    "books.eventually",
    "caduceus.toml",
    "chat.completion",
    "chat_template_kwargs.thinking",
    "clock_getcpuclockid(3)",
    "Encoding",
    "house.blocked",
    "house.until",
    "llama_models/llama3/tokenizer.py",
    "loop.create_connection",
    "output_config.format",
    "postmaster.pid",
    "provider.regions",
    "pyproject.toml",
    "request.costs",
    "request.lines",
}


def test_no_docstring_comment_or_paper_names_what_is_gone() -> None:
    gone = [f"{path}: `{name}`" for path in SOURCES + PAPERS for name in references(path) if is_gone(name, path)]
    assert gone == []


def test_no_manual_names_what_is_gone() -> None:
    """Manuals are full of fields and events that look like code: only settings and what is in our folders counts."""
    ours = tuple(f"{name}{mark}" for name in {*FOLDERS, *sections()} for mark in "./")
    said = [(path, name) for path in MANUALS for name in references(path) if name.startswith(ours)]
    assert said
    assert [f"{path}: `{name}`" for path, name in said if is_gone(name, path)] == []


@pytest.mark.parametrize(
    "name",
    [
        "proxy/config.py",
        "exchange/relay.py",
        "secrets.py",
        "tests/proxy/",
        "tests/test_*.py",
        "proxy.config",
        "proxy.config.Settings",
        "proxy/config.py: load_settings",
        "config.load_settings",
        "config.Settings.data_dir",
        "exchange/policy.decide",
        "sandbox.script",
        "Settings.data_dir",
        "ConfigurationError.problems",
        "server.admin_port",
        "load_settings(config)",
        "Settings",
        "DOTTED.fullmatch",
        "re.compile",
        "dataclasses.replace",
        "ValueError",
        "data_dir",
        "data: [DONE]",
    ],
)
def test_what_exists_is_found(name: str) -> None:
    assert not is_gone(name, Path("tests/test_comments.py"))


@pytest.mark.parametrize(
    "name",
    [
        "proxy/configuration.py",
        "exchange/config.py",
        "attempt_policy.py",
        "tests/proxy/commands/test_config_*.py",
        "proxy.configuration",
        "proxy.config.Nothing",
        "proxy/config.py: nothing",
        "config.nothing",
        "secrets.nothing",
        "config.Settings.nothing",
        "sandbox.nothing",
        "Settings.nothing",
        "server.nothing",
        "attempt_policy.decide",
        "exchange/policy.nothing",
        "nothing_of_ours(config)",
        "NothingOfOurs",
    ],
)
def test_what_is_gone_is_found_wherever_it_is_said(name: str, tmp_path: Path) -> None:
    module = tmp_path / "planted.py"
    module.write_text(f'"""Of `{name}`."""\n\nx = 1  # as `{name}` does\n\ndef f():\n    """It is\n    `{name}`."""')
    assert [said for said in references(module) if is_gone(said, module)] == [name] * 3
    paper = tmp_path / "planted.md"
    paper.write_text(f"```\n`Fenced`\n```\nAsk `{name}`.")
    assert [said for said in references(paper) if is_gone(said, paper)] == [name]


# What is said


def references(path: Path) -> list[str]:
    """What stands in backticks in docstrings and comments; in Markdown, outside of its fenced blocks."""
    text = (ROOT / path).read_text()
    if path.suffix == ".md":
        said = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    else:
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) or "" for node in nodes(path) if isinstance(node, documented)]
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        said = "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", said)


def is_gone(name: str, path: Path) -> bool:
    """Whether `name`, said in `path`, looks like a reference to code and names none."""
    file, _, within = name.partition(": ")
    if name in FOREIGN:
        gone = False
    elif PATH.fullmatch(file):
        gone = is_ours(file) and not any(entry.match(file.rstrip("/")) for entry in [*ENTRIES, *SOURCES])
        gone = gone or (within.isidentifier() and not exists(f"{file.removesuffix('.py').replace('/', '.')}.{within}"))
    elif found := DOTTED.fullmatch(name):
        dotted = found[1].replace("/", ".")
        gone = ("/" not in name or is_ours(name)) and not exists(dotted)
        gone = gone and dotted.partition(".")[0] not in names_in(path) | (sys.stdlib_module_names - modules().keys())
    elif found := CALL.fullmatch(name):
        gone = found[1] not in functions() | classes().keys() | names_in(path)
    else:
        gone = bool(CLASS.fullmatch(name)) and name not in classes().keys() | names_in(path) | vars(builtins).keys()
    return gone


def is_ours(file: str) -> bool:
    return file.endswith((".py", ".sql", ".json")) or file.partition("/")[0] in {entry.name for entry in ENTRIES}


# What exists


def exists(dotted: str) -> bool:
    """Whether a module, a name in one, an attribute of a class or a setting is called so, with or without packages."""
    first, *rest = parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        for names in modules().get(".".join(parts[:length]), []):
            if not parts[length:] or holds(names, parts[length:]):
                return True
    made = classes().get(first, []) + classes().get(sections().get(first, ""), [])
    return any(len(rest) == 1 and rest[0] in attributes(one) for one in made)


def holds(names: dict[str, ast.stmt], parts: list[str]) -> bool:
    """Whether a module that binds `names` has the first of `parts`, and the second as an attribute of that class."""
    made = names.get(parts[0])
    return made is not None and (len(parts) == 1 or (isinstance(made, ast.ClassDef) and parts[1] in attributes(made)))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@cache
def modules() -> dict[str, list[dict[str, ast.stmt]]]:
    """What modules bind, by their dotted names, whole and with packages left out in front."""
    found: dict[str, list[dict[str, ast.stmt]]] = {}
    for path in SOURCES:
        parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(dict(bound(tree(path).body)))
    return found


def bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that statements bind, also inside `if` and `try`, each with its statement."""
    for statement in body:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement.name, statement
            case ast.If() | ast.Try():
                yield from bound([*statement.body, *statement.orelse])
            case _:
                yield from ((name, statement) for name in assigned(statement))


def assigned(node: ast.AST) -> set[str]:
    """Variables, and attributes of anything, that are assigned anywhere in `node`."""
    stored = [part for part in ast.walk(node) if isinstance(getattr(part, "ctx", None), ast.Store)]
    return {
        part.id if isinstance(part, ast.Name) else part.attr
        for part in stored
        if isinstance(part, ast.Name | ast.Attribute)
    }


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = {}
    for node in (node for path in SOURCES for node in nodes(path) if isinstance(node, ast.ClassDef)):
        found.setdefault(node.name, []).append(node)
    return found


def attributes(made: ast.ClassDef) -> set[str]:
    """What a class defines or its methods assign, and what it inherits from classes of ours."""
    bases = [found for base in made.bases if isinstance(base, ast.Name) for found in classes().get(base.id, [])]
    own = {name for name, _ in bound(made.body)} | assigned(made)
    return own.union(*(attributes(base) for base in bases if base is not made))


@cache
def sections() -> dict[str, str]:
    """`server` → `ServerSettings`, for every section of the settings."""
    (settings,) = classes()["Settings"]
    fields = [field for field in settings.body if isinstance(field, ast.AnnAssign)]
    named = {field.target.id: ast.unparse(field.annotation) for field in fields if isinstance(field.target, ast.Name)}
    return {name: annotation for name, annotation in named.items() if annotation in classes()}


@cache
def functions() -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for path in SOURCES for node in nodes(path) if isinstance(node, kinds)}


@cache
def names_in(path: Path) -> set[str]:
    """Arguments, variables and imported names of a module, of which its own docstrings and comments may speak."""
    said_by = nodes(path) if path.suffix == ".py" else []
    imported = [alias for node in said_by if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return (
        {alias.asname or alias.name for alias in imported}
        | {node.arg for node in said_by if isinstance(node, ast.arg)}
        | {node.id for node in said_by if isinstance(node, ast.Name)}
    )
