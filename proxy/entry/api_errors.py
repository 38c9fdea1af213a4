"""What a client is told when there is no answer: one table of codes, worded by each surface in its own shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

# code → (status, OpenAI's error type, whether trying again can help)
CODES: Mapping[str, tuple[int, str, bool]] = {
    "invalid_json": (400, "invalid_request_error", False),
    "invalid_request": (400, "invalid_request_error", False),
    "missing_required_parameter": (400, "invalid_request_error", False),
    "unsupported_parameter": (400, "invalid_request_error", False),
    "unsupported_modality": (400, "invalid_request_error", False),
    "context_length_exceeded": (400, "invalid_request_error", False),
    "content_filter": (400, "invalid_request_error", False),
    "upstream_rejected_request": (400, "invalid_request_error", False),
    "no_eligible_endpoint": (400, "invalid_request_error", False),
    "invalid_api_key": (401, "authentication_error", False),
    "expired_api_key": (401, "authentication_error", False),
    "insufficient_credit": (402, "insufficient_quota", False),
    "budget_exceeded": (402, "insufficient_quota", False),
    "tenant_suspended": (403, "permission_error", False),
    "not_found": (404, "invalid_request_error", False),
    "model_not_found": (404, "invalid_request_error", False),
    "method_not_allowed": (405, "invalid_request_error", False),
    "request_timeout": (408, "invalid_request_error", True),
    "idempotency_key_in_use": (409, "invalid_request_error", True),
    "idempotent_answer_not_kept": (422, "invalid_request_error", False),
    "request_too_large": (413, "invalid_request_error", False),
    "idempotency_key_reused": (422, "invalid_request_error", False),
    "rate_limit_exceeded": (429, "rate_limit_error", True),
    "upstream_rate_limited": (429, "rate_limit_error", True),
    "internal_error": (500, "server_error", True),
    "upstream_failed": (502, "server_error", True),
    "no_endpoint_available": (503, "server_error", True),
    "ledger_unavailable": (503, "server_error", True),
    "draining": (503, "server_error", True),
    "upstream_timeout": (504, "server_error", True),
}


@dataclass(slots=True, eq=False)  # an exception is itself, and must be hashable
class ApiError(Exception):
    """A request that ends without an answer. `code` is one of `CODES`; `attempts` is what was tried, for the client."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    attempts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": CODES[self.code][1],
            "param": self.param,
            "code": self.code,
            **self.details,
        }
        if self.attempts:
            error["attempts"] = list(self.attempts)
        return {"error": error}

    def headers(self) -> dict[str, str]:
        headers = {}
        if not CODES[self.code][2]:
            headers["x-should-retry"] = "false"
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers
