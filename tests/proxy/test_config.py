"""What can be set, where, and what is said when it is wrong: file or variable, key and reason."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from providers.profiles import DIALECTS
from proxy.config import Settings, known_variables, load_settings
from proxy.errors import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "caduceus.toml"


def load(file: Path, text: str = "", **environ: str) -> Settings:
    file.write_text(text)
    return load_settings(str(file), {f"CADUCEUS_{name}": value for name, value in environ.items()})


def problems(file: Path, text: str = "", **environ: str) -> list[str]:
    """Each as `where: reason`, without the directory of the file."""
    with pytest.raises(ConfigurationError) as refused:
        load(file, text, **environ)
    return [line.replace(f"{file.parent}/", "") for line in str(refused.value).split("\n")]


def endpoint(**settings: Any) -> dict[str, Any]:
    return {"name": "one", "provider": "nebius", "base_url": "https://example.org/v1", "model_id": "m"} | settings


def endpoints(*listed: dict[str, Any]) -> str:
    return orjson.dumps(listed).decode()


# Where settings come from


def test_nothing_said_is_what_the_contract_says(file: Path) -> None:
    settings = load(file)
    assert settings == Settings()
    assert settings.model == "NousResearch/Hermes-4-405B"
    assert (settings.jurisdictions, settings.endpoints, settings.database.url) == (None, None, None)
    assert (settings.server.host, settings.server.port, settings.server.admin_port) == ("127.0.0.1", 8080, 8081)
    assert settings.limits.body_bytes == 4_194_304
    assert (settings.limits.idle_timeout_s, settings.limits.total_timeout_s) == (20, 1_800)
    assert settings.data_dir == Path("~/.local/share/caduceus").expanduser()


def test_a_variable_wins_over_the_file(file: Path) -> None:
    settings = load(file, "[server]\nport = 1\nhost = 'h'", SERVER_PORT="2")
    assert (settings.server.port, settings.server.host) == (2, "h")


def test_the_file_is_named_or_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {}).server.port == 8080
    (tmp_path / "caduceus.toml").write_text("server.port = 1")
    (tmp_path / "other.toml").write_text("server.port = 2")
    assert load_settings(None, {}).server.port == 1
    assert load_settings(None, {"CADUCEUS_CONFIG": "other.toml"}).server.port == 2
    assert load_settings("caduceus.toml", {"CADUCEUS_CONFIG": "other.toml"}).server.port == 1
    with pytest.raises(ConfigurationError, match=r"^nowhere\.toml: cannot be read: No such file"):
        load_settings("nowhere.toml", {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(str(tmp_path), {})


def test_the_file_may_be_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"server.port = 1")
    os.close(writing)
    assert load_settings(f"/dev/fd/{reading}", {}).server.port == 1
    os.close(reading)


def test_settings_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CADUCEUS_SERVER_PORT", "caduceus_server_port"):
        monkeypatch.setenv(variable, "1")
    assert Settings().server.port == 8080


def test_a_data_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_settings(None, {"CADUCEUS_DATA_DIR": "data"}).data_dir == tmp_path / "data"
    assert load_settings(None, {"CADUCEUS_DATA_DIR": "~/data"}).data_dir == Path("/home/somebody/data")


def test_variables_that_are_no_settings_are_left_alone(file: Path) -> None:
    assert load(file, CONFIG="x", SECRET_KEY="x", ADMIN_TOKEN="x", TEST_DATABASE_URL="x") == Settings()


def test_every_setting_has_its_variable(file: Path) -> None:
    known = known_variables()
    assert known["CADUCEUS_DATA_DIR"] == ("data_dir",)
    assert known["CADUCEUS_ENDPOINTS"] == ("endpoints",)
    assert known["CADUCEUS_LIMITS_FIRST_TOKEN_TIMEOUT_PER_1K_PROMPT_S"] == (
        "limits",
        "first_token_timeout_per_1k_prompt_s",
    )
    assert known["CADUCEUS_BILLING_SELLER"] == ("billing", "seller")
    values = Settings().model_dump(mode="json")
    for variable, where in known.items():
        value = values[where[0]] if len(where) == 1 else values[where[0]][where[1]]
        if value is not None:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            assert load_settings(str(write(file)), {variable: text}) == Settings(), variable


def write(file: Path) -> Path:
    file.write_text("")
    return file


@pytest.mark.parametrize(
    ("variable", "text", "where", "value"),
    [
        ("JURISDICTIONS", "EU, US", "jurisdictions", ("EU", "US")),
        ("JURISDICTIONS", '["EU"]', "jurisdictions", ("EU",)),
        ("ALIASES", "a", "aliases", ("a",)),
        ("SERVER_HOST", "[::1]", "server.host", "[::1]"),
        ("SERVER_CORS_ORIGINS", "https://a.example,https://b.example", "server.cors_origins", None),
        ("SERVER", '{"port": 7}', "server.port", 7),
        ("LIMITS_IDLE_TIMEOUT_S", "2.5", "limits.idle_timeout_s", 2.5),
        ("DATABASE_URL", "postgresql://u:p@h/d", "database.url", "postgresql://u:p@h/d"),
        ("BILLING_SELLER", '{"name": "A", "address": ["b"]}', "billing.seller.name", "A"),
        ("BILLING_TIMEZONE", "UTC", "billing.timezone", "UTC"),
    ],
)
def test_a_variable_is_read(file: Path, variable: str, text: str, where: str, value: Any) -> None:
    found: Any = load(file, **{variable: text})
    for part in where.split("."):
        found = getattr(found, part)
    assert found == (value if value is not None else tuple(text.split(",")))


def test_a_section_and_one_of_its_keys(file: Path) -> None:
    settings = load(file, "[server]\nport = 1\nworkers = 3", SERVER='{"admin_port": 5}', SERVER_PORT="2")
    assert (settings.server.port, settings.server.admin_port, settings.server.workers) == (2, 5, 1)


def test_a_table_in_a_variable_is_not_mixed_with_that_of_the_file(file: Path) -> None:
    text = "[billing]\ntimezone = 'Europe/Berlin'\nseller = { name = 'A', country = 'DE' }"
    billing = load(file, text, BILLING_SELLER='{"name": "B"}').billing
    assert billing.seller is not None
    assert (billing.timezone, billing.seller.name, billing.seller.country) == ("Europe/Berlin", "B", None)


def test_endpoints_as_json(file: Path) -> None:
    listed = endpoints(endpoint(price={"input": "1.00", "output": 3, "cached_input": 0.1}), endpoint(name="two"))
    one, two = load(file, ENDPOINTS=listed).endpoints or ()
    assert one.price is not None
    assert (one.price.input, one.price.output, one.price.cached_input) == ("1.00", "3", "0.1")
    assert (two.name, two.price, two.stream_plain, two.supports) == ("two", None, True, None)


def test_an_endpoint_in_the_file_with_everything(file: Path) -> None:
    text = """
        [[endpoints]]
        name = "nebius"
        provider = "nebius"
        base_url = "https://api.tokenfactory.nebius.com/v1/"
        api_key_env = "NEBIUS_API_KEY"
        model_id = "NousResearch/Hermes-4-405B"
        region = "eu-north1"
        jurisdiction = "EU"
        jurisdiction_evidence = "contract 2026-10"
        failure_domain = "nebius"
        context_tokens = 131072
        max_output_tokens = 8192
        quantization = "fp8"
        data_collection = "deny"
        stream_plain = true
        supports = ["tools", "response_format", "completions", "prefix"]
        price = { input = "1.00", output = "3.00", cached_input = "0.10" }
    """
    (one,) = load(file, text).endpoints or ()
    assert one.base_url == "https://api.tokenfactory.nebius.com/v1"
    assert (one.jurisdiction, one.jurisdiction_evidence) == ("EU", "contract 2026-10")
    assert one.supports == ("tools", "response_format", "completions", "prefix")


@pytest.mark.parametrize("price", ["0", "0.000001", "1.10", "123456.654321", 3, 0.25])
def test_a_price_that_is_whole_pico_dollars(file: Path, price: Any) -> None:
    load(file, ENDPOINTS=endpoints(endpoint(price={"input": price, "output": price})))
    load(file, f"endpoints = [{toml(endpoint(price={'input': price, 'output': price}))}]")


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {toml(part)}" for name, part in value.items()) + "}"
    return orjson.dumps(value).decode()


# What is wrong


NO_SETTING = "is no setting of Caduceus"
EMPTY = "is empty; give it a value, or unset it"
NO_ZONE = 'is no time zone; one such as "Europe/Berlin"'
NO_URL = "must be a URL that begins with postgresql://"
NO_PORT = "Input should be a valid integer, unable to parse string as an integer (it is 'eighty')"
TOO_SMALL = "Input should be greater than or equal to 1024 (it is 1)"

# What the file says, what the environment says → where and why, in the order in which it is said.
WRONG: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("port = 1", {}, {"port": NO_SETTING}),
    ("[server]\nprot = 1", {}, {"server.prot": NO_SETTING}),
    ("PORT = 1\nserver.Port = 1", {}, {"server.Port": NO_SETTING, "PORT": NO_SETTING}),
    ("server_port = 1", {"SERVER_PORT": "1"}, {"server_port": NO_SETTING}),
    ("aliases = 'a, b'", {}, {"aliases": "Input should be a valid tuple (it is 'a, b')"}),
    ("server = 5", {}, {"server": "must be a table"}),
    ("server = 5", {"SERVER_PORT": "1"}, {"server": "must be a table"}),
    ("", {"SERVER": "[1]", "SERVER_PORT": "1"}, {"CADUCEUS_SERVER": "must be a table"}),
    ("", {"SERVER_PROT": "1"}, {"CADUCEUS_SERVER_PROT": NO_SETTING}),
    ("", {"SERVER": '{"PORT": 1}'}, {"CADUCEUS_SERVER server.PORT": NO_SETTING}),
    ("", {"Server_Port": "1"}, {"CADUCEUS_Server_Port": NO_SETTING}),
    ("", {"ALIASES_A": "1"}, {"CADUCEUS_ALIASES_A": NO_SETTING}),
    ("", {"SERVER": '{"prot": 1}'}, {"CADUCEUS_SERVER server.prot": NO_SETTING}),
    ("", {"TESTING": "1"}, {"CADUCEUS_TESTING": NO_SETTING}),
    ("", {"PORT": "1", "HOST": "2"}, {"CADUCEUS_HOST": NO_SETTING, "CADUCEUS_PORT": NO_SETTING}),
    ("", {"DATABASE_URL": ""}, {"CADUCEUS_DATABASE_URL": EMPTY}),
    ("", {"DATA_DIR": " "}, {"CADUCEUS_DATA_DIR": EMPTY}),
    ("", {"JURISDICTIONS": ""}, {"CADUCEUS_JURISDICTIONS": EMPTY}),
    ("jurisdictions = []", {}, {"jurisdictions": "Tuple should have at least 1 item after validation, not 0"}),
    ("server.port = 70000", {}, {"server.port": "Input should be less than or equal to 65535 (it is 70000)"}),
    ("server.workers = 0", {}, {"server.workers": "Input should be greater than or equal to 1 (it is 0)"}),
    ("limits.idle_timeout_s = nan", {}, {"limits.idle_timeout_s": "Input should be less than or equal to 86400"}),
    ("limits.idle_timeout_s = 0", {}, {"limits.idle_timeout_s": "Input should be greater than 0 (it is 0)"}),
    ("billing.currency = 'EUR'", {}, {"billing.currency": "Input should be 'USD' (it is 'EUR')"}),
    ("billing.timezone = 'Mars/Olympus'", {}, {"billing.timezone": f"'Mars/Olympus' {NO_ZONE}"}),
    ("billing.timezone = '../etc'", {}, {"billing.timezone": f"'../etc' {NO_ZONE}"}),
    ("billing.seller = {}", {}, {"billing.seller.name": "is missing"}),
    ("database.url = 'mysql://u:secret@h/d'", {}, {"database.url": NO_URL}),
    ("spool.durable = true", {}, {"spool": NO_SETTING}),
    ("", {"SERVER_PORT": "eighty"}, {"CADUCEUS_SERVER_PORT": NO_PORT}),
    ("", {"LIMITS": '{"body_bytes": 1}'}, {"CADUCEUS_LIMITS limits.body_bytes": TOO_SMALL}),
    (
        "[server]\nprot = 1\n[limits]\nbody_bytes = 1",
        {"SERVER_PORT": "-1"},
        {
            "CADUCEUS_SERVER_PORT": "Input should be greater than or equal to 0 (it is '-1')",
            "server.prot": NO_SETTING,
            "limits.body_bytes": TOO_SMALL,
        },
    ),
]


@pytest.mark.parametrize(("text", "environ", "said"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_setting(file: Path, text: str, environ: dict[str, str], said: dict[str, str]) -> None:
    places = {where: where if where.startswith("CADUCEUS_") else f"caduceus.toml: {where}" for where in said}
    assert problems(file, text, **environ) == [f"{places[where]}: {why}" for where, why in said.items()]


def test_everything_that_is_wrong_is_said_at_once(file: Path) -> None:
    given = {"PORT": "1", "DATA_DIR": "", "ALIASES": "[", "ENDPOINTS": "[", "BILLING_SELLER": "{", "SERVER_PORT": "-1"}
    found = [problem.split(": ") for problem in problems(file, "limits.drain_s = 0", **given)]
    assert [(where, why[0][:12]) for where, *why in found] == [
        ("CADUCEUS_DATA_DIR", "is empty; gi"),
        ("CADUCEUS_PORT", "is no settin"),
        ("CADUCEUS_ALIASES", "is not JSON"),
        ("CADUCEUS_SERVER_PORT", "Input should"),
        ("caduceus.toml", "limits.drain"),
        ("CADUCEUS_BILLING_SELLER", "is not JSON"),
        ("CADUCEUS_ENDPOINTS", "is not JSON"),
    ]


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2", "\x00"])
def test_a_file_that_is_not_toml(file: Path, text: str) -> None:
    assert problems(file, text)[0].startswith("caduceus.toml: is not TOML: ")


def test_a_file_that_is_not_text(file: Path) -> None:
    file.write_bytes(b"model = '\xff'")
    with pytest.raises(ConfigurationError, match="is not TOML: 'utf-8' codec"):
        load_settings(str(file), {})


@pytest.mark.parametrize("text", ["nebius", "{", '[{"name": ]', "[" * 100_000])
def test_a_variable_that_is_not_json(file: Path, text: str) -> None:
    (problem,) = problems(file, ENDPOINTS=text)
    assert problem.startswith("CADUCEUS_ENDPOINTS: is not JSON: ")


MUST_BE_URL = "must be an http or https URL, without query and without credentials"
WHOLE_PRICE = "is no whole number of pico-dollars a token; give USD per 1M tokens with at most 6 decimals"

BAD_ENDPOINTS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "a b"}, "name", "String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' (it is 'a b')"),
    ({"name": "x" * 65}, "name", "String should match pattern"),
    ({"name": ""}, "name", "String should match pattern"),
    ({"provider": "azure"}, "provider", f"unknown provider 'azure'; one of {', '.join(sorted(DIALECTS))}"),
    ({"base_url": "ftp://example.org"}, "base_url", MUST_BE_URL),
    ({"base_url": "example.org/v1"}, "base_url", MUST_BE_URL),
    ({"base_url": "https://example.org/v1?key=secret"}, "base_url", MUST_BE_URL),
    ({"base_url": "https://user:secret@example.org/v1"}, "base_url", MUST_BE_URL),
    ({"base_url": "https://example.org/v 1"}, "base_url", MUST_BE_URL),
    ({"base_url": "https://example.org/\r\nx: y"}, "base_url", MUST_BE_URL),
    ({"base_url": "https://exämple.org"}, "base_url", MUST_BE_URL),
    ({"base_url": "https:///v1"}, "base_url", "must name a host"),
    ({"base_url": "http://[::1"}, "base_url", "Invalid IPv6 URL"),
    ({"base_url": "http://h:99999"}, "base_url", "Port out of range 0-65535"),
    ({"api_key_env": "sk-secret"}, "api_key_env", "must be the name of an environment variable, not the key itself"),
    ({"api_key": "secret"}, "api_key", "is no setting of Caduceus"),
    ({"context_tokens": 0}, "context_tokens", "Input should be greater than or equal to 1 (it is 0)"),
    ({"data_collection": "maybe"}, "data_collection", "Input should be 'deny' or 'allow' (it is 'maybe')"),
    ({"supports": ["images", "tools"]}, "supports", "unknown images; of completions, logprobs, n, prefix,"),
    ({"price": {"input": "1"}}, "price.output", "is missing"),
    ({"price": {"input": "0.0000001", "output": "3"}}, "price.input", f"'0.0000001' {WHOLE_PRICE}"),
    ({"price": {"input": "1", "output": 0.0000001}}, "price.output", f"'0.0000001' {WHOLE_PRICE}"),
    ({"price": {"input": "1", "output": "3", "cached_input": "0.1234567"}}, "price.cached_input", WHOLE_PRICE),
    ({"price": {"input": "-1", "output": "3"}}, "price.input", "'-1' is negative; a price is zero or more"),
    ({"price": {"input": "a dollar", "output": "3"}}, "price.input", "'a dollar' is no decimal amount in USD"),
    ({"price": {"input": "1e3", "output": "3"}}, "price.input", "'1e3' is no decimal amount in USD"),
    ({"price": {"input": True, "output": "3"}}, "price.input", "Input should be a valid string"),
]


@pytest.mark.parametrize(("settings", "key", "reason"), BAD_ENDPOINTS, ids=lambda value: str(value)[:50])
def test_a_wrong_endpoint(file: Path, settings: dict[str, Any], key: str, reason: str) -> None:
    listed = [endpoint(name="good"), endpoint(**settings)]
    (by_variable,) = problems(file, ENDPOINTS=endpoints(*listed))
    assert by_variable.startswith(f"CADUCEUS_ENDPOINTS endpoints[1].{key}: ")
    assert reason in by_variable
    assert "secret" not in by_variable
    (by_file,) = problems(file, in_toml(listed))
    assert by_file.startswith(f"caduceus.toml: endpoints[1].{key}: ")
    assert reason in by_file


def in_toml(listed: list[dict[str, Any]]) -> str:
    return "endpoints = [" + ", ".join(map(toml, listed)) + "]"


def test_two_endpoints_of_one_name(file: Path) -> None:
    twins = [endpoint(), endpoint(provider="chutes")]
    assert problems(file, ENDPOINTS=endpoints(*twins)) == ["CADUCEUS_ENDPOINTS: two endpoints are called one"]
    assert problems(file, in_toml(twins)) == ["caduceus.toml: endpoints: two endpoints are called one"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]
