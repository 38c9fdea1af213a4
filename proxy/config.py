"""The settings: from `caduceus.toml` and from `CADUCEUS_*` variables, checked as a whole before anything starts.

`load_settings` returns frozen `Settings` or raises `ConfigurationError` naming file (or variable), key and reason for
every problem at once. pydantic-settings reads both sources; what it cannot do is ours, and the docstrings below say
what that is. Secrets are no settings: `proxy.secrets` reads them.
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
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ledger.money import parse_price
from providers.profiles import CAPABILITIES, DIALECTS
from proxy.errors import ConfigurationError

PREFIX = "CADUCEUS_"
NOT_SETTINGS = re.compile("CADUCEUS_(CONFIG|SECRET_KEY|ADMIN_TOKEN|TEST_.*)")
UNKNOWN = "is no setting of Caduceus"
REASONS = {"extra_forbidden": UNKNOWN, "missing": "is missing", "model_type": "must be a table"}

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Setting = tuple[str, ...]  # its path: ("server", "port")
Words = Annotated[tuple[str, ...], NoDecode]  # a variable may give them with commas instead of as JSON


def postgres_url(url: str) -> str:
    """Raise ValueError without repeating the URL, which may hold a password."""
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
    trusted_proxies: Words = ()
    cors_origins: Words = ()


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

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        case_sensitive=True,
        env_prefix=PREFIX.lower(),
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    model: str = "NousResearch/Hermes-4-405B"
    aliases: Words = ("nousresearch/hermes-4-405b", "hermes-4-405b", "Hermes-4-405B")
    jurisdictions: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, NoDecode] = None
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
        *_others: PydanticBaseSettingsSource,
        **_named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`Settings(…)` reads no environment; `load_settings` does, from the mapping that it is given."""
        return (init_settings,)


class File(TomlConfigSettingsSource):
    """One TOML file. The library's source skips a file that is missing or a pipe, and reads decimals as floats."""

    @staticmethod
    def _existing_files(files: Any) -> list[Any]:
        return [files]

    def _read_file(self, path: Any) -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                return tomllib.load(file, parse_float=Decimal)
        except OSError as error:
            raise ConfigurationError([(str(path), f"cannot be read: {error.strerror}")]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError([(str(path), f"is not TOML: {error}")]) from None


class Variables(EnvSettingsSource):
    """The variables in `environ`, which need not be the process's. JSON keeps its decimals exact.

    A value that is not JSON becomes the ValueError that says so. Validation then refuses it together with all other
    problems, where the library would stop at the first.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {variable.lower(): text for variable, text in environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: str) -> Any:  # noqa: ARG002
        if NoDecode in field.metadata and not value.lstrip().startswith("["):
            return [word for part in value.split(",") if (word := part.strip())]
        try:
            return json.loads(value, parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            return ValueError(f"is not JSON: {error}")


def load_settings(config: str | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `config`, else `CADUCEUS_CONFIG`, else `./caduceus.toml` if there is one; variables win."""
    environ = os.environ if environ is None else environ
    named = config or environ.get("CADUCEUS_CONFIG")
    path = Path(named or "caduceus.toml")
    file = File(Settings, path)() if named or path.exists() else {}
    origins, problems = check_variables(environ)
    variables = Variables({variable: environ[variable] for variable in origins.values()})()
    try:
        settings = Settings(**merge(file, variables, origins))
    except ValidationError as error:
        problems += [(origin(item["loc"], path, origins), reason(item)) for item in error.errors()]
    if problems:
        raise ConfigurationError(problems)
    return settings


def known_variables() -> dict[str, Setting]:
    """`CADUCEUS_SERVER_PORT` → `("server", "port")`, for every setting and every whole section."""
    fields = Settings.model_fields.items()
    keys = [(name, key) for name, field in fields for key in getattr(field.annotation, "model_fields", ())]
    return {f"{PREFIX}{'_'.join(setting)}".upper(): setting for setting in [*((name,) for name, _ in fields), *keys]}


def check_variables(environ: Mapping[str, str]) -> tuple[dict[Setting, str], list[tuple[str, str]]]:
    """Which variable gives which setting, and the problems: the library ignores variables that are unknown."""
    known, origins, problems = known_variables(), {}, []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or NOT_SETTINGS.fullmatch(variable):
            continue
        if variable not in known:
            problems.append((variable, UNKNOWN))
        elif not environ[variable].strip():
            problems.append((variable, "is empty; give it a value, or unset it"))
        else:
            origins[known[variable]] = variable
    return origins, problems


def merge(file: dict[str, Any], variables: dict[str, Any], origins: Mapping[Setting, str]) -> dict[str, Any]:
    """The file's settings, replaced by those that variables give.

    The library would merge a table of the file with the whole table that a variable gives, and would ignore a value
    that the file has where a table belongs.
    """
    values = {name: value for name, value in file.items() if (name,) not in origins}
    for name, value in variables.items():
        if name not in values:
            values[name] = value
        elif isinstance(values[name], dict):
            values[name] = values[name] | value
    return values


def origin(loc: tuple[Any, ...], path: Path, origins: Mapping[Setting, str]) -> str:
    """Where a value came from: a variable or the file, and the key in it."""
    key = ".".join(f"[{part}]" if isinstance(part, int) else part for part in loc).replace(".[", "[")
    for setting in (loc[:2], loc[:1]):
        if setting in origins:
            return origins[setting] if setting == loc else f"{origins[setting]} {key}"
    return f"{path}: {key}"


def reason(item: Any) -> str:
    """What is wrong, from one of pydantic's errors."""
    given = item["input"]
    if isinstance(given, ValueError):
        return str(given)
    if item["type"] in REASONS:
        return REASONS[item["type"]]
    text = str(item["msg"]).removeprefix("Value error, ")
    shown = isinstance(given, str | int | float) and item["type"] != "value_error"
    return f"{text} (it is {given!r})" if shown else text
