"""What is broken in a line, and what is left whole."""

import pytest

from tests.mutate import mutants


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a > b", ["a >= b", "a <= b"]),
        ("a <= b < c", ["a < b < c", "a > b < c", "a <= b <= c", "a <= b >= c"]),
        ("a == b", ["a != b"]),
        ("a is not b", ["a is b"]),
        ("(a) in (b)", ["(a) not in (b)"]),
        ("a and (b or c)", ["a or (b or c)", "a and (b and c)"]),
        ("not (a, b)", ["(a, b)"]),
        ("a + b - c", ["a + b + c", "a - b - c"]),
        ("a += -2", ["a -= -2", "a += -3"]),
        ("a = True", ["a = False"]),
        ("a = 0.0, 1.1", ["a = 1, 1.1", "a = 0.0, 1.65"]),
        ("min(a, b)", ["max(a, b)"]),
        ("a if b else c", ["a if not (b) else c"]),
        ("[a for a in b if a()]", ["[a for a in b if not (a())]"]),
        ("{K.A, K.B, K.C}", ["{K.B, K.B, K.C}", "{K.A, K.C, K.C}", "{K.A, K.B, K.A}"]),
        ('a = ("ä", "b")', ['a = ("b", "b")', 'a = ("ä", "ä")']),
        ('"1 < 2"', []),
        ('f"{a < 1}"', []),
        ("log.info(a < 1)", []),
        ("a: Literal[1]", []),
        ("zip(a, b, strict=True)", []),
    ],
)
def test_every_small_thing_in_a_line_is_broken_once(line: str, changed: list[str]) -> None:
    assert [mutant.source.decode() for mutant in mutants(line.encode())] == changed


def test_a_mutant_is_named_by_what_it_is_in_and_how_its_line_reads() -> None:
    source = b"class A:\n    def b(self, c: int = 1) -> bool:\n        return (\n            c()\n        )\n"
    found = [(mutant.line_number, mutant.line, mutant.name) for mutant in mutants(source)]
    assert found == [
        (4, "c()", "b: not (c())"),
        (2, "def b(self, c: int = 1) -> bool:", "b: def b(self, c: int = 2) -> bool:"),
    ]


def test_a_case_is_left_out_of_a_match() -> None:
    source = b"match a:\n    case K.A | K.B:\n        pass\n"
    assert [mutant.changed for mutant in mutants(source)] == ["case K.B | K.B:", "case K.A | K.A:"]
