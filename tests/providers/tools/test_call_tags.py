"""Where calls stand in a text: each read on the left, what is found in it on the right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.tools.call_tags import BLANK_CHARACTERS, CALL_CHARACTERS, CLOSE, OPEN, CallTags, Found

TEXT, CALL, NO_CALL, TOO_LONG = Found.TEXT, Found.CALL, Found.NO_CALL, Found.TOO_LONG
NAME, ARGUMENTS = '<tool_call>\n{"name":', '<tool_call>\n{"name": "add", "arguments":'

# The opening, the reads with what each finds, and what is held back at the end (and whether behind a tag).
Line = tuple[str, list[tuple[Found, str]]]
TRANSCRIPTS: dict[str, tuple[str, list[Line], tuple[bool, str]]] = {
    "text": ("", [("a < b", [(TEXT, "a < b")]), ("<tool>", [(TEXT, "<tool>")])], (False, "")),
    "half a tag": ("", [("so <tool_", [(TEXT, "so ")])], (False, "<tool_")),
    "half a tag that is none": ("", [("<tool_", []), ("box>", [(TEXT, "<tool_box>")])], (False, "")),
    "a call": ("", [("so <tool_call>{1}</tool_call> it", [(TEXT, "so "), (CALL, "{1}"), (TEXT, " it")])], (False, "")),
    "a call in pieces": (
        "",
        [("<tool_", []), ("call>\n", []), ("{1", []), ("}</tool", []), ("_call>!", [(CALL, "\n{1}"), (TEXT, "!")])],
        (False, ""),
    ),
    "two calls": ("", [(f"{OPEN}[1]{CLOSE}{OPEN}`2`{CLOSE}", [(CALL, "[1]"), (CALL, "`2`")])], (False, "")),
    "prose about the tag": ("", [("<tool_call> tag", [(NO_CALL, OPEN), (TEXT, " tag")])], (False, "")),
    "a call that breaks off": ("", [("<tool_call>{1</to", [])], (True, "{1</to")),
    "nothing behind the tag": ("", [("<tool_call>\n", [])], (True, "\n")),
    "a call that was begun": (NAME, [(' "add"}</tool_call>', [(CALL, '\n{"name": "add"}')])], (False, "")),
    "arguments that were begun": (
        ARGUMENTS, [(" {}", []), ("}</tool_call>", [(CALL, '\n{"name": "add", "arguments": {}}')])], (False, "")
    ),
    "an answer that begins anew": (NAME, [("No.", [(TEXT, "No.")])], (False, "")),
    "a call that begins anew": (NAME, [("<tool_call>{1}</tool_call>", [(CALL, "{1}")])], (False, "")),
    "an answer that never comes": (NAME, [("\n", [])], (False, "\n")),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    opening, lines, held = TRANSCRIPTS[name]
    tags = CallTags(opening)
    assert [(read, list(tags.feed(read))) for read, _ in lines] == lines
    assert (tags.busy, tags.inside) == (bool(held[1]), name in INSIDE)
    assert tags.take() == held
    assert (tags.busy, tags.take()) == (False, (False, ""))


INSIDE = ("a call that breaks off", "nothing behind the tag", "an answer that never comes")


def test_a_call_without_end_is_given_up() -> None:
    tags = CallTags()
    assert list(tags.feed(OPEN + "{" + "x" * (CALL_CHARACTERS - 1))) == []
    assert list(tags.feed("yz")) == [(TOO_LONG, OPEN + "{" + "x" * (CALL_CHARACTERS - 1) + "yz")]
    assert list(tags.feed("so")) == [(TEXT, "so")]


def test_white_space_behind_a_tag_is_held_so_long() -> None:
    tags = CallTags()
    assert list(tags.feed(OPEN + " " * BLANK_CHARACTERS)) == []
    assert list(tags.feed(" ")) == [(NO_CALL, OPEN), (TEXT, " " * (BLANK_CHARACTERS + 1))]


PIECES = st.sampled_from([OPEN, CLOSE, "{", "}", "<", "tool_call>", "a", " ", "\n"])


@given(
    st.lists(PIECES, max_size=10).map("".join), st.lists(st.integers(1, 8), max_size=20), st.sampled_from(["", NAME])
)
def test_cutting_changes_nothing_and_nothing_is_lost(text: str, sizes: list[int], opening: str) -> None:
    def found(*pieces: str) -> tuple[list[tuple[Found, str]], tuple[bool, str]]:
        tags = CallTags(opening)
        joined: list[tuple[Found, str]] = []
        for piece in pieces:
            for kind, words in tags.feed(piece):
                if joined and kind is joined[-1][0] is Found.TEXT:
                    joined[-1] = kind, joined[-1][1] + words
                else:
                    joined.append((kind, words))
        return joined, tags.take()

    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    whole = found(text)
    assert found(*pieces, rest) == whole
    if not opening:
        between = {Found.CALL: OPEN + "{}" + CLOSE, Found.TEXT: "{}", Found.NO_CALL: "{}", Found.TOO_LONG: "{}"}
        behind_tag, held = whole[1]
        put_back = "".join(between[kind].replace("{}", words) for kind, words in whole[0])
        assert put_back + (OPEN if behind_tag else "") + held == text
