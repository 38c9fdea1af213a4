"""OpenAI's Chat Completions."""

from proxy.entry.api_errors import ApiError
from proxy.surfaces.chat.answer import ChatMessage, ChatStream
from proxy.surfaces.chat.request import read_chat
from proxy.surfaces.surface import Surface

CHAT = Surface("chat", read_chat, ChatStream, ChatMessage, ApiError.body)
