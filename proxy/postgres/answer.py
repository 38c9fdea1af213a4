"""Ask the server whether it is ready: log in over the Unix socket, as far as ReadyForQuery, and read what it says.

The messages are those of the PostgreSQL documentation, chapter "Message Formats": a type byte, a length that counts
itself, a body.
"""

import enum
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

PROTOCOL_3_0 = 196_608
ANSWER_BYTES = 65_536
CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS = "57P03", "53300"


class State(enum.Enum):
    READY = "ready"
    NOT_YET = "not yet"  # starting, recovering or shutting down; `message` says which
    REFUSED = "refused"  # it will not let us in; `message` says why
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Answer:
    state: State
    message: str = ""


def ask(socket_path: Path, user: str, database: str, timeout_s: float) -> Answer:
    """Log in and out again. A server that has no connection left counts as ready; no answer at all is SILENT."""
    names = f"user\0{user}\0database\0{database}\0application_name\0caduceus alive\0\0".encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(socket_path))
            connection.sendall(struct.pack("!ii", len(names) + 8, PROTOCOL_3_0) + names)
            answer = read_answer(connection)
            if answer.state is State.READY:
                connection.sendall(b"X\0\0\0\4")
            return answer
    except OSError:
        return Answer(State.SILENT)


def read_answer(connection: socket.socket) -> Answer:
    received = b""
    while len(received) < ANSWER_BYTES and (more := connection.recv(8_192)):
        received += more
        if answer := find_answer(received):
            return answer
    return Answer(State.SILENT)


def find_answer(received: bytes) -> Answer | None:
    """The answer in the bytes received so far; None where more must be read."""
    start = 0
    while len(received) >= start + 5:
        kind, length = received[start : start + 1], struct.unpack_from("!i", received, start + 1)[0]
        body = received[start + 5 : start + 1 + length]
        if len(body) < length - 4:
            return None
        if kind == b"Z":
            return Answer(State.READY)
        if kind == b"E":
            return judge(body)
        if kind == b"R" and body[:4] != b"\0\0\0\0":
            return Answer(State.REFUSED, "it asks for a password")
        start += 1 + length
    return None


def judge(error: bytes) -> Answer:
    """What an ErrorResponse means; its fields are one letter and a text, each ended by a zero byte."""
    fields = {field[:1]: field[1:].decode(errors="replace") for field in error.split(b"\0") if field}
    code, message = fields.get(b"C", ""), fields.get(b"M", "")
    if code == TOO_MANY_CONNECTIONS:
        return Answer(State.READY, message)
    return Answer(State.NOT_YET if code == CANNOT_CONNECT_NOW else State.REFUSED, message)
