"""What a caller says of the model's thoughts, in any of the many words for it."""

from typing import Any

from providers.chat_request import Reasoning
from proxy.entry.api_errors import ApiError
from proxy.surfaces.fields import one_of, typed

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FORMATS = ("both", "reasoning", "reasoning_content", "details", "inline", "none")
SWITCHES = frozenset({"reasoning", "reasoning_effort", "include_reasoning", "chat_template_kwargs"})
AS_THE_MODEL_LIKES = Reasoning()


def read_reasoning(body: dict[str, Any], parameters: dict[str, Any], suffix: str) -> Reasoning:
    """What the switches for thinking come to, of which there are many; the most explicit one decides.

    Takes out of `parameters` the switch that stands there.
    """
    if not suffix and SWITCHES.isdisjoint(body):
        return AS_THE_MODEL_LIKES
    wish = typed(body, "reasoning", dict) or {}
    effort = one_of(wish, "effort", EFFORTS, "reasoning.") or one_of(body, "reasoning_effort", EFFORTS)
    limit_tokens: int | None = typed(wish, "max_tokens", int, "reasoning.")
    if limit_tokens is not None and limit_tokens < 1:
        raise ApiError("invalid_request", "reasoning.max_tokens must be at least 1", param="reasoning.max_tokens")
    enabled: bool | None = typed(wish, "enabled", bool, "reasoning.")
    flag = take_flag(parameters)
    if enabled is None:
        enabled = flag
    if enabled is None and effort is not None:
        enabled = effort != "none"
    if enabled is None and (limit_tokens is not None or suffix == "thinking"):
        enabled = True
    if effort == "none" or not enabled:
        effort = None
    included = typed(body, "include_reasoning", bool)
    exclude = bool(typed(wish, "exclude", bool, "reasoning.")) or included is False
    return Reasoning(enabled, effort, limit_tokens if enabled else None, exclude)


def take_flag(parameters: dict[str, Any]) -> bool | None:
    """Take `chat_template_kwargs.thinking` out of the parameters: each dialect has its own words for it."""
    kwargs = parameters.get("chat_template_kwargs")
    if not kwargs or "thinking" not in kwargs:
        return None
    flag: bool | None = typed(kwargs, "thinking", bool, "chat_template_kwargs.")
    rest = {name: value for name, value in kwargs.items() if name != "thinking"}
    if rest:
        parameters["chat_template_kwargs"] = rest
    else:
        del parameters["chat_template_kwargs"]
    return flag
