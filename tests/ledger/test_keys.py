"""Keys carry a checksum; what is kept of them is a keyed digest."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.keys import ALPHABET, checksum, digest, mint


def test_a_minted_key_ends_with_its_checksum_and_is_its_own() -> None:
    keys = {mint() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-cad-") and len(key) == 45 and checksum(key[7:39]) == key[39:] for key in keys)


@given(st.text(ALPHABET, min_size=32, max_size=32), st.integers(0, 31), st.sampled_from(ALPHABET))
def test_one_wrong_character_changes_the_checksum(body: str, place: int, character: str) -> None:
    wrong = body[:place] + character + body[place + 1 :]
    assert (checksum(wrong) == checksum(body)) == (wrong == body)


def test_a_checksum_does_not_change_from_version_to_version() -> None:
    assert checksum("a" * 32) == "jJa8i3"


def test_a_digest_depends_on_key_and_secret() -> None:
    digests = {digest(key, secret) for key in ("a", "b") for secret in (b"1", b"2")}
    assert len(digests) == 4
    assert {len(each) for each in digests} == {32}
