"""What a user can set, see or get wrong is documented, and nothing else is."""

import re
from pathlib import Path

from proxy.config import EndpointSettings, Section, Settings
from proxy.entry.api_errors import CODES
from proxy.routing import preferences
from proxy.routing.endpoints import PROFILES

ROOT = Path(__file__).parent.parent


def words_in_code(path: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z_]\w*)`", (ROOT / path).read_text()))


def test_every_setting_is_documented() -> None:
    documented = words_in_code("docs/configuration.md")
    for name, field in Settings.model_fields.items():
        section = field.annotation
        keys = section.model_fields if isinstance(section, type) and issubclass(section, Section) else {name: field}
        assert not keys.keys() - documented, name
    assert not EndpointSettings.model_fields.keys() - documented
    assert not {profile.api_key_env for profile in PROFILES} - documented


def test_every_preference_of_routing_is_documented() -> None:
    (listed,) = re.findall(r"`provider: \{([\w, ]+)\}`", (ROOT / "docs/api.md").read_text())
    assert set(listed.split(", ")) == preferences.FIELDS


def test_the_table_of_error_codes_is_the_one_in_force() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d{3}) \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    documented = {code: int(status) for codes, status in rows for code in re.findall(r"\w+", codes)}
    assert documented == {code: status for code, (status, _, _) in CODES.items()}


def test_every_file_that_architecture_names_exists() -> None:
    named = re.findall(r"`((?:providers|ledger|selfhost|proxy)/[\w/]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_architecture_has_a_line_for_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    whole = ("proxy/commands/", "proxy/postgres/", "proxy/sandbox/")
    modules = [path for room in ("providers", "ledger", "selfhost", "proxy") for path in (ROOT / room).rglob("*.py")]
    paths = [path.relative_to(ROOT).as_posix() for path in modules if not path.name.startswith("__")]
    missing = [path for path in paths if not path.startswith(whole) and not re.search(rf"[/`]{Path(path).name}`", text)]
    assert missing == []


def test_no_file_names_a_package_index_or_this_machine() -> None:
    hosts = ["py" + "pi.org", "python" + "hosted", "registry.npm" + "js", "deb.deb" + "ian"]
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix in {".py", ".md", ".txt", ".toml", ".in", ".ini"}:
            if any(
                part.startswith((".venv", ".git", "build", "node_modules")) for part in path.relative_to(ROOT).parts
            ):
                continue
            text = path.read_text()
            assert not [host for host in hosts if host in text], path
