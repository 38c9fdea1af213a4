"""A client of the Responses API that believes nothing: every event must be in its place."""

from typing import Any

import orjson


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Every event is its name and one line of JSON that says the same name, numbered from 0."""
    events = []
    for number, block in enumerate(stream.split(b"\n\n")[:-1]):
        name, data = block.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == f"event: {event['type']}".encode()
        assert event["sequence_number"] == number
        assert data.count(b'":') == orjson.dumps(event).count(b'":'), "no key of any object stands twice"
        events.append(event)
    return events


class Client:
    """Puts the answer together from its events, and refuses any that is out of order."""

    def __init__(self, stream: bytes) -> None:
        self.items: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.done: list[bool] = []
        first, second, *rest = events_of(stream)
        assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
        assert first["response"] == second["response"]
        assert (first["response"]["status"], first["response"]["output"]) == ("in_progress", [])
        self.error = rest.pop() if rest[-1]["type"] == "error" else None
        self.last = rest.pop()
        self.response = self.last["response"]
        for event in rest:
            handle = getattr(self, event["type"].removeprefix("response.").replace(".", "_"))
            if event["type"] != "response.output_item.added":
                place = self.items[event["output_index"]]
                assert event.get("item_id", place["id"]) == place["id"]
                assert not self.done[event["output_index"]]
            handle(event["output_index"], event)

    def output_item_added(self, index: int, event: dict[str, Any]) -> None:
        assert index == len(self.items)
        item = event["item"]
        assert item["status"] == "in_progress"
        assert not item.get("arguments")
        assert not item.get("content")
        assert not item.get("summary")
        self.items.append(item)
        self.texts.append("")
        self.done.append(False)

    def content_part_added(self, index: int, event: dict[str, Any]) -> None:
        item = self.items[index]
        assert item["type"] != "function_call"
        assert (event["content_index"], event["part"]["text"]) == (len(item["content"]), "") == (0, "")
        item["content"].append(event["part"])

    def reasoning_summary_part_added(self, index: int, event: dict[str, Any]) -> None:
        item = self.items[index]
        assert item["type"] == "reasoning"
        assert (event["summary_index"], event["part"]["text"]) == (len(item["summary"]), "") == (0, "")
        item["summary"].append(event["part"])

    def reasoning_summary_text_delta(self, index: int, event: dict[str, Any]) -> None:
        self.items[index]["summary"][event["summary_index"]]["text"] += event["delta"]

    def reasoning_summary_text_done(self, index: int, event: dict[str, Any]) -> None:
        assert event["text"] == self.items[index]["summary"][event["summary_index"]]["text"]

    def reasoning_summary_part_done(self, index: int, event: dict[str, Any]) -> None:
        assert event["part"] == self.items[index]["summary"][event["summary_index"]]

    def output_text_delta(self, index: int, event: dict[str, Any]) -> None:
        part = self.items[index]["content"][event["content_index"]]
        assert part["type"] == "output_text"
        assert event["delta"]
        part["text"] += event["delta"]
        part["logprobs"] += event["logprobs"]

    def reasoning_text_delta(self, index: int, event: dict[str, Any]) -> None:
        part = self.items[index]["content"][event["content_index"]]
        assert part["type"] == "reasoning_text"
        part["text"] += event["delta"]

    def function_call_arguments_delta(self, index: int, event: dict[str, Any]) -> None:
        self.items[index]["arguments"] += event["delta"]

    def function_call_arguments_done(self, index: int, event: dict[str, Any]) -> None:
        assert event["arguments"] == self.items[index]["arguments"]

    def output_text_done(self, index: int, event: dict[str, Any]) -> None:
        part = self.items[index]["content"][event["content_index"]]
        assert (event["text"], event["logprobs"]) == (part["text"], part["logprobs"])

    def reasoning_text_done(self, index: int, event: dict[str, Any]) -> None:
        assert event["text"] == self.items[index]["content"][event["content_index"]]["text"]

    def content_part_done(self, index: int, event: dict[str, Any]) -> None:
        assert event["part"] == self.items[index]["content"][event["content_index"]]

    def output_item_done(self, index: int, event: dict[str, Any]) -> None:
        status, self.items[index]["status"] = self.items[index]["status"], event["item"]["status"]
        assert status == "in_progress"
        assert event["item"] == self.items[index]
        self.done[index] = True
