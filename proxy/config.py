"""The settings: `caduceus.toml`, overlaid by `CADUCEUS_*` variables, checked as a whole before anything starts.

`load_settings` returns frozen `Settings` or raises `ConfigurationError` naming file (or variable), key and reason for
every problem at once. Secrets are no settings: `proxy.secrets` reads them.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ledger.money import parse_price
from providers.profiles import CAPABILITIES, DIALECTS
from proxy.errors import ConfigurationError

PREFIX = "CADUCEUS_"
NOT_SETTINGS = {"CADUCEUS_CONFIG", "CADUCEUS_SECRET_KEY", "CADUCEUS_ADMIN_TOKEN"}

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]


def postgres_url(url: str) -> str:
    """The message does not repeat it: there may be a password in it."""
    if not re.match(r"postgres(ql)?://", url):
        raise ValueError("must be a URL that begins with postgresql://")
    return url


PostgresUrl = Annotated[str, AfterValidator(postgres_url)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    admin_port: Port = 8081
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


class LimitSettings(Section):
    body_bytes: Annotated[int, Field(ge=1_024, le=1 << 30)] = 4_194_304
    header_timeout_s: Seconds = 30
    body_timeout_s: Seconds = 30
    default_output_tokens: Annotated[int, Field(ge=256)] = 8_192
    first_token_timeout_s: Seconds = 30
    first_token_timeout_per_1k_prompt_s: Annotated[float, Field(ge=0, le=60)] = 1
    connect_timeout_s: Seconds = 5
    idle_timeout_s: Seconds = 20
    total_timeout_s: Seconds = 1_800
    keepalive_comment_s: Seconds = 15
    slow_client_timeout_s: Seconds = 60
    drain_upstream_s: Seconds = 30
    drain_s: Seconds = 60
    idempotent_answer_bytes: Annotated[int, Field(ge=1_024, le=16 << 20)] = 1_048_576


class DatabaseSettings(Section):
    url: PostgresUrl | None = None
    migrate_url: PostgresUrl | None = None


class SellerSettings(Section):
    name: str
    address: tuple[str, ...] = ()
    country: str | None = None
    vat_id: str | None = None
    email: str | None = None


class BillingSettings(Section):
    currency: Literal["USD"] = "USD"
    timezone: str = "UTC"
    seller: SellerSettings | None = None

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            return value if value == "UTC" else ZoneInfo(value).key
        except (KeyError, ValueError, OSError):
            raise ValueError(f'{value!r} is no time zone; one such as "Europe/Berlin"') from None


class PriceSettings(Section):
    """USD per million tokens, as decimal strings; each a whole number of pico-dollars a token."""

    input: str
    output: str
    cached_input: str | None = None

    @field_validator("input", "output", "cached_input", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        if isinstance(value, float):
            raise ValueError(f'write the price as a string, "{value}", so that it stays exact')
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            value = format(value, "f") if isinstance(value, Decimal) else str(value)
        if isinstance(value, str):
            parse_price(value)
        return value


class EndpointSettings(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    provider: str
    base_url: str
    api_key_env: str | None = None
    model_id: str
    region: str | None = None
    jurisdiction: str | None = None
    jurisdiction_evidence: str | None = None
    failure_domain: str | None = None
    context_tokens: Annotated[int, Field(ge=1)] = 131_072
    max_output_tokens: Annotated[int, Field(ge=1)] = 8_192
    quantization: str | None = None
    data_collection: Literal["deny", "allow"] = "allow"
    zdr: bool = False
    hidden_reasoning: bool = False
    stream_plain: bool = True
    supports: tuple[str, ...] | None = None
    price: PriceSettings | None = None

    @field_validator("provider")
    @classmethod
    def _known_dialect(cls, value: str) -> str:
        if value not in DIALECTS:
            raise ValueError(f"unknown provider {value!r}; one of {', '.join(sorted(DIALECTS))}")
        return value

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[!-~]+", value) or set(value) & set("?#@"):
            raise ValueError("must be an http or https URL, without query and without credentials")
        parts = urlsplit(value)
        if not parts.hostname or parts.port == 0:  # `port` raises for what is none
            raise ValueError("must name a host")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable, not the key itself")
        return value

    @field_validator("supports")
    @classmethod
    def _known_capabilities(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := set(value or ()) - CAPABILITIES:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; of {', '.join(sorted(CAPABILITIES))}")
        return value


class Settings(BaseSettings):
    """Everything an operator can set, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # type: ignore[assignment]

    model: str = "NousResearch/Hermes-4-405B"
    aliases: tuple[str, ...] = (
        "nousresearch/hermes-4-405b",
        "hermes-4-405b",
        "Hermes-4-405B",
    )
    jurisdictions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    data_dir: Path = Path("~/.local/share/caduceus")
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    database: DatabaseSettings = DatabaseSettings()
    billing: BillingSettings = BillingSettings()
    endpoints: tuple[EndpointSettings, ...] | None = None

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("endpoints")
    @classmethod
    def _names_are_unique(cls, value: tuple[EndpointSettings, ...] | None) -> tuple[EndpointSettings, ...] | None:
        names = [endpoint.name for endpoint in value or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two endpoints are called {', '.join(twice)}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load_settings` merges file and environment, to say where a value came from


def load_settings(config: str | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `config`, else `CADUCEUS_CONFIG`, else `./caduceus.toml` if there is one; variables win."""
    environ = os.environ if environ is None else environ
    named = config or environ.get("CADUCEUS_CONFIG")
    path = Path(named or "caduceus.toml")
    values = read_file(path) if named or path.exists() else {}
    from_environment = overlay(values, environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError([explain(item, path, from_environment) for item in error.errors()]) from None


def read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file, parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError([(str(path), f"cannot be read: {error.strerror}")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([(str(path), f"is not TOML: {error}")]) from None


def known_variables() -> dict[str, tuple[str, ...]]:
    """`CADUCEUS_SERVER_PORT` → `("server", "port")`, for every setting."""
    known: dict[str, tuple[str, ...]] = {}
    for name, field in Settings.model_fields.items():
        known[PREFIX + name.upper()] = (name,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key in field.annotation.model_fields:
                known[f"{PREFIX}{name}_{key}".upper()] = (name, key)
    return known


def overlay(values: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Write the variables into `values`; return which setting came from which variable."""
    known, origin, problems = known_variables(), {}, []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS or variable.startswith("CADUCEUS_TEST_"):
            continue
        if variable not in known:
            problems.append((variable, "is no setting of Caduceus"))
            continue
        where = known[variable]
        target = values if len(where) == 1 else values.setdefault(where[0], {})
        if not isinstance(target, dict):
            continue  # what stands for the section is no table, and that is said
        if not environ[variable].strip():
            problems.append((variable, "is empty; give it a value, or unset it"))
            continue
        try:
            target[where[-1]] = parse_variable(where, environ[variable])
        except (ValueError, RecursionError) as error:
            problems.append((variable, f"is not JSON: {error}"))
        origin[where] = variable
    if problems:
        raise ConfigurationError(problems)
    return origin


TABLES = {"server", "limits", "database", "billing", "endpoints", "seller"}
LISTS = {"aliases", "jurisdictions", "trusted_proxies", "cors_origins"}


def parse_variable(where: tuple[str, ...], text: str) -> Any:
    """Tables are JSON, and so may lists of words be, or comma-separated; everything else is the text itself."""
    if where[-1] in TABLES or (where[-1] in LISTS and text.lstrip()[:1] == "["):
        return json.loads(text, parse_float=Decimal)
    if where[-1] in LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def explain(item: Any, path: Path, from_environment: dict[tuple[str, ...], str]) -> tuple[str, str]:
    loc = tuple(item["loc"])
    key = ".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in loc).replace(".[", "[")
    for length in range(len(loc), 0, -1):
        if variable := from_environment.get(tuple(map(str, loc[:length]))):
            where = variable if length == len(loc) else f"{variable} {key}"
            return where, reason(item)
    return (f"{path}: {key}" if key else str(path)), reason(item)


REASONS = {"extra_forbidden": "is no setting of Caduceus", "missing": "is missing", "model_type": "must be a table"}


def reason(item: Any) -> str:
    if item["type"] in REASONS:
        return REASONS[item["type"]]
    text = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    return (
        f"{text} (it is {given!r})" if isinstance(given, str | int | float) and item["type"] != "value_error" else text
    )
