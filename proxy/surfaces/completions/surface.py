"""OpenAI's Completions: the model continues a text as it stands, without a template around it."""

from proxy.entry.api_errors import ApiError
from proxy.surfaces.completions.answer import CompletionMessage, CompletionStream
from proxy.surfaces.completions.request import read_completion
from proxy.surfaces.surface import Surface

COMPLETIONS = Surface("completions", read_completion, CompletionStream, CompletionMessage, ApiError.body)
