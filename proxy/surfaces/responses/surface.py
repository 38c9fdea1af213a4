"""OpenAI's Responses, stateless."""

from proxy.entry.api_errors import ApiError
from proxy.surfaces.responses.answer import ResponseMessage, ResponseStream
from proxy.surfaces.responses.request import read_response
from proxy.surfaces.surface import Surface

RESPONSES = Surface("responses", read_response, ResponseStream, ResponseMessage, ApiError.body, "text.format.schema")
