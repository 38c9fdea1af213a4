"""Anthropic's Messages."""

from proxy.surfaces.messages.answer import MessagesMessage, MessagesStream, error_body
from proxy.surfaces.messages.request import read_messages_request
from proxy.surfaces.surface import Surface

MESSAGES = Surface(
    "messages", read_messages_request, MessagesStream, MessagesMessage, error_body, "output_config.format.schema"
)
