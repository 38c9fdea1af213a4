"""`caduceus endpoints` and `caduceus config check`: what an operator is told of the endpoints that are configured."""

from pathlib import Path
from typing import Any

import pytest

ENDPOINTS = """
[[endpoints]]
name = "one"
provider = "nebius"
base_url = "https://example.org/v1"
model_id = "m"
jurisdiction = "EU"
jurisdiction_evidence = "contract 2026-10"
price = { input = "1.00", output = "3.00" }

[[endpoints]]
name = "two"
provider = "vllm"
base_url = "http://127.0.0.1:8000/v1"
model_id = "m"
"""


@pytest.fixture
def listed(caduceus: Any, tmp_path: Path) -> Any:
    """The command line in a directory whose `caduceus.toml` lists two endpoints."""
    (tmp_path / "caduceus.toml").write_text(ENDPOINTS)
    return caduceus


def test_programs_get_everything_about_every_endpoint(listed: Any) -> None:
    one, two = listed("endpoints", "list", "--json").json
    assert (one["name"], one["jurisdiction"], one["jurisdiction_evidence"]) == ("one", "EU", "contract 2026-10")
    assert (one["input"], one["output"], one["cached_input"]) == ("1.00", "3.00", None)
    assert (two["name"], two["jurisdiction"], two["jurisdiction_evidence"], two["input"]) == ("two", None, None, None)
    assert listed("endpoints", "--json").json == [one, two]
    assert listed("endpoints", "show", "two", "--json").json == two


def test_people_get_a_table_with_the_evidence_beside_the_jurisdiction(listed: Any) -> None:
    head, one, two = listed("endpoints").out.splitlines()
    assert head.split()[3:6] == ["jurisdiction", "jurisdiction_evidence", "input"]
    assert one.split()[3:7] == ["EU", "contract", "2026-10", "1.00"]
    assert two.split()[3:6] == ["-", "-", "-"]


def test_an_endpoint_that_nobody_configured(listed: Any) -> None:
    said = listed("endpoints", "show", "three")
    assert (said.status, said.out) == (1, "")
    assert "no endpoint is called three" in said.err


def test_a_configuration_is_checked_without_starting(listed: Any, tmp_path: Path) -> None:
    assert listed("config", "check", "--json").json["endpoints"] == ["one", "two"]
    (tmp_path / "caduceus.toml").write_text("[spool]\ndurable = true")
    said = listed("config", "check")
    assert said.status != 0
    assert "caduceus.toml: spool: is no setting of Caduceus" in said.err
