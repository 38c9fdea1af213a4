"""The payloads of a response: the events of a stream (HTML standard, "Parsing an event stream"), or one whole body."""

CR = 13  # as a number, which is looked for quickest


class TooLarge(ValueError):
    """What has to be read at once exceeds `limit_bytes`; the response cannot be read on."""

    def __init__(self, what: str, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"{what} is larger than {limit_bytes} bytes")


class EventSplitter:
    """Cuts a byte stream into the `data` of its server-sent events. Comments and other fields are left out.

    `feed` takes the stream in any pieces and returns the events that each completes; lines end in LF, CRLF or CR. Call
    `end` when the stream is over. An unfinished event of more than `limit_bytes` raises TooLarge: stop reading then.
    """

    __slots__ = ("_data", "_limit_bytes", "_rest")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = b""  # of the stream: a line that has not ended
        self._data: list[bytes] = []  # of the event whose blank line has not come

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._rest or self._data or CR in chunk or not chunk.endswith(b"\n\n"):
            return self._feed_slowly(chunk)
        # Nearly every read holds whole events. First the usual case, one event of one line.
        end = len(chunk) - 2
        if chunk.find(b"\n") == end and chunk.startswith(b"data: "):
            return [chunk[6:end]]
        events: list[bytes] = []
        for block in chunk[:end].split(b"\n\n"):
            if block.startswith(b"data:") and b"\n" not in block:
                events.append(value_of(block))
            elif block:
                self._take_lines([*block.split(b"\n"), b""], events)
        return events

    def end(self) -> list[bytes]:
        """The stream is over: an event that only lacks its blank line counts."""
        events: list[bytes] = []
        self._take_lines([self._rest.removesuffix(b"\r"), b""], events)
        self._rest = b""
        return events

    def _feed_slowly(self, chunk: bytes) -> list[bytes]:
        text = self._rest + chunk
        half = b"\r" if text.endswith(b"\r") else b""  # perhaps of a CRLF
        lines = text.removesuffix(half).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + half
        events: list[bytes] = []
        self._take_lines(lines, events)
        if len(self._rest) + sum(map(len, self._data)) > self._limit_bytes:
            raise TooLarge("an event", self._limit_bytes)
        return events

    def _take_lines(self, lines: list[bytes], events: list[bytes]) -> None:
        """Whole lines; a blank one completes an event."""
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(value_of(line))
            elif line == b"data":
                self._data.append(b"")
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []


def value_of(line: bytes) -> bytes:
    """What stands behind `data:`, without the one space that may stand before it."""
    return line[6:] if line[5:6] == b" " else line[5:]


class WholeBody:
    """Collects a body that is one payload, in the same words: `feed` returns none, `end` the body."""

    __slots__ = ("_body", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._body = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        self._body += chunk
        if len(self._body) > self._limit_bytes:
            self._body.clear()
            raise TooLarge("the body", self._limit_bytes)
        return []

    def end(self) -> list[bytes]:
        return [bytes(self._body)]
