"""Which endpoints a process may use: those listed, else those whose key is there; never one of another jurisdiction."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from providers.profiles import DIALECTS, PROFILES
from proxy.config import EndpointSettings, Settings
from proxy.errors import ConfigurationError
from proxy.routing.endpoints import load_endpoints
from proxy.routing.route import in_regions


class Environment(Mapping[str, str]):
    """Remembers what was looked up."""

    def __init__(self, **variables: str) -> None:
        self._variables = variables
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("nobody may look through the whole environment")

    def __len__(self) -> int:
        return len(self._variables)


def listed(name: str, **settings: Any) -> EndpointSettings:
    fields = {"provider": "nebius", "base_url": "https://example.org/v1", "model_id": "m"} | settings
    return EndpointSettings(name=name, **fields)


def settings(*endpoints: EndpointSettings, **more: Any) -> Settings:
    return Settings(endpoints=endpoints, **more)


# Profiles


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_is_enabled_by_its_key_alone(profile: Any) -> None:
    (one,) = load_endpoints(Settings(), {profile.api_key_env: "secret"})
    assert (one.name, one.provider, one.base_url) == (profile.name, profile.provider, profile.base_url)
    assert (one.api_key, one.target.model_id) == ("secret", profile.model_id)
    assert one.target.supports == DIALECTS[profile.provider].default_supports
    assert (one.price is None) == (profile.input_price is None)
    assert one.jurisdiction is None  # nobody vouches for any


def test_every_provider_has_a_profile_or_is_ones_own() -> None:
    assert {profile.provider for profile in PROFILES} == set(DIALECTS) - {"vllm", "openai", "sandbox"}


def test_profiles_come_together_and_those_of_one_company_fail_together() -> None:
    environ = {profile.api_key_env: "secret" for profile in PROFILES}
    found = load_endpoints(Settings(), environ)
    assert [one.name for one in found] == [profile.name for profile in PROFILES]
    assert {one.failure_domain for one in found if one.provider == "openrouter"} == {"openrouter"}


@pytest.mark.parametrize("environ", [{}, {"NEBIUS_API_KEY": ""}])
def test_without_a_key_there_is_no_profile(environ: dict[str, str]) -> None:
    assert load_endpoints(Settings(), environ) == ()


def test_a_configuration_that_lists_endpoints_serves_exactly_those() -> None:
    environ = {"NEBIUS_API_KEY": "secret", "CHUTES_API_KEY": "secret"}
    assert [one.name for one in load_endpoints(settings(listed("one")), environ)] == ["one"]
    assert load_endpoints(settings(), environ) == ()


@pytest.mark.parametrize("jurisdiction", ["eu", "us"])
def test_a_profile_is_in_no_region_that_is_named_like_a_jurisdiction(jurisdiction: str) -> None:
    for one in load_endpoints(Settings(), {profile.api_key_env: "secret" for profile in PROFILES}):
        assert not in_regions(one, frozenset({jurisdiction}))


# Jurisdictions


def test_others_are_not_loaded_and_their_keys_not_read() -> None:
    environ = Environment(EU_KEY="eu", US_KEY="us", NO_KEY="no")
    found = load_endpoints(
        settings(
            listed("eu", jurisdiction="EU", api_key_env="EU_KEY"),
            listed("us", jurisdiction="US", api_key_env="US_KEY"),
            listed("lower", jurisdiction="eu", api_key_env="US_KEY"),
            listed("nowhere", region="EU", api_key_env="NO_KEY"),
            listed("missing", jurisdiction="US", api_key_env="NOT_SET"),
            jurisdictions=("EU",),
        ),
        environ,
    )
    assert [(one.name, one.api_key) for one in found] == [("eu", "eu")]
    assert environ.read == {"EU_KEY"}


def test_profiles_are_in_none_and_their_keys_not_read_either() -> None:
    environ = Environment(NEBIUS_API_KEY="secret", OPENROUTER_EU_API_KEY="secret")
    assert load_endpoints(Settings(jurisdictions=("EU",)), environ) == ()
    assert environ.read == set()


def test_without_jurisdictions_all_are_loaded() -> None:
    found = load_endpoints(settings(listed("eu", jurisdiction="EU"), listed("nowhere")), {})
    assert [one.name for one in found] == ["eu", "nowhere"]


# Keys


def test_a_missing_key_is_named_and_so_is_its_endpoint() -> None:
    both = settings(
        listed("one", api_key_env="ONE"), listed("two", api_key_env="TWO"), listed("three", api_key_env="OK")
    )
    with pytest.raises(ConfigurationError) as refused:
        load_endpoints(both, {"OK": "x", "TWO": " \n"})
    assert refused.value.problems == [
        ("endpoints.one.api_key_env", "the variable ONE is not set"),
        ("endpoints.two.api_key_env", "the variable TWO is not set"),
    ]


@pytest.mark.parametrize("key", ["a\r\nx-evil: 1", "a b", "schlüssel", "a\0"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_endpoints(settings(listed("one", api_key_env="KEY")), {"KEY": key})
    assert str(refused.value) == "KEY: holds characters that no HTTP header can carry"


def test_a_line_break_at_its_end_is_no_part_of_a_key() -> None:
    (one,) = load_endpoints(settings(listed("one", api_key_env="KEY")), {"KEY": "secret\n"})
    assert one.api_key == "secret"


def test_without_a_variable_no_key_is_sent() -> None:
    (one,) = load_endpoints(settings(listed("one", provider="vllm")), {})
    assert one.api_key is None


def test_a_key_is_not_printed() -> None:
    (one,) = load_endpoints(settings(listed("one", api_key_env="KEY")), {"KEY": "hush-hush"})
    assert "hush-hush" not in repr(one)


# What an endpoint is


def test_an_endpoint_has_what_the_settings_say() -> None:
    (one,) = load_endpoints(
        settings(
            listed(
                "one",
                provider="vllm",
                region="eu-north1",
                jurisdiction="EU",
                failure_domain="rack-1",
                context_tokens=32_000,
                max_output_tokens=4_000,
                quantization="fp8",
                data_collection="deny",
                zdr=True,
                hidden_reasoning=True,
                stream_plain=False,
                supports=("tools",),
                price={"input": "1", "output": "3"},
            )
        ),
        {},
    )
    assert (one.region, one.jurisdiction, one.failure_domain) == ("eu-north1", "EU", "rack-1")
    assert (one.context_tokens, one.max_output_tokens, one.quantization) == (32_000, 4_000, "fp8")
    assert (one.data_collection, one.zdr, one.hidden_reasoning, one.stream_plain) == ("deny", True, True, False)
    assert one.target.supports == {"tools"}
    assert one.adapter.dialect.name == "vllm"
    assert not one.sandbox


def test_an_endpoint_of_which_little_is_said() -> None:
    (one,) = load_endpoints(settings(listed("one", provider="chutes")), {})
    assert (one.failure_domain, one.region, one.jurisdiction, one.price) == ("chutes", None, None, None)
    assert (one.data_collection, one.zdr, one.hidden_reasoning, one.stream_plain) == ("allow", False, False, True)
    assert (one.context_tokens, one.max_output_tokens) == (131_072, 8_192)


def test_supporting_nothing_is_not_supporting_the_defaults() -> None:
    (one,) = load_endpoints(settings(listed("one", provider="vllm", supports=())), {})
    assert one.target.supports == frozenset()


def test_only_the_sandbox_is_a_sandbox() -> None:
    (one,) = load_endpoints(settings(listed("one", provider="sandbox")), {})
    assert one.sandbox
