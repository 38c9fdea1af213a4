"""What a checking process runs: requests in at its standard input, which is a socket, replies out of it, until its end.

A request is `HEAD` (bytes of the schema, bytes of the text, microseconds of processor time), the schema, the text. No
text asks about the schema alone. A reply is `SIZE` and a JSON array: a `Verdict`, a message, a JSON Pointer.

The process can hurt nobody but itself: it holds no secret, no descriptor but its socket, can open none, and has a bound
of memory. A request that takes more processor time than it may is the end of it: SIGPROF, whose default is death,
stops machine code as well as Python. Its parent has a clock beside that.
"""

import os
import resource
import signal
import socket
import struct
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import orjson

from providers.formats.schema import BadSchema, make_checker

HEAD = struct.Struct("!III")
SIZE = struct.Struct("!I")
MEMORY_BYTES = 384 << 20
MOST_SCHEMAS = 64
OUT_OF_MEMORY = 3
GAVE_UP = frozenset({OUT_OF_MEMORY, -signal.SIGPROF})
"""The exit statuses of a process that was asked for too much; as `subprocess` words them."""


class Verdict(StrEnum):
    FITS = "fits"
    MISFIT = "misfit"
    BAD_SCHEMA = "bad schema"
    TOO_COSTLY = "too costly"


ready = lru_cache(MOST_SCHEMAS)(make_checker)


def main() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    make_checker(b'{"pattern": "^a$"}').problem(b'"b"')  # loads the libraries
    confine()
    with socket.socket(fileno=0) as parent, parent.makefile("rb") as requests:
        while len(head := requests.read(HEAD.size)) == HEAD.size:
            schema_bytes, text_bytes, cpu_us = HEAD.unpack(head)
            schema, text = requests.read(schema_bytes), requests.read(text_bytes)
            signal.setitimer(signal.ITIMER_PROF, cpu_us / 1e6)
            try:
                reply = orjson.dumps(check(schema, text))
            except MemoryError:  # also what it holds by now should go
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, 0)
            parent.sendall(SIZE.pack(len(reply)) + reply)


def check(schema: bytes, text: bytes) -> tuple[Verdict, str, str]:
    try:
        checker = ready(schema)
        problem = checker.problem(text) if text else None
    except BadSchema as error:
        return Verdict.BAD_SCHEMA, error.message, error.path
    except (MemoryError, OSError, ImportError):  # no schema's fault, or not to be survived
        raise
    except Exception:  # of the library's: RecursionError, and whatever else a schema makes it stumble over
        return Verdict.TOO_COSTLY, "", ""
    return (Verdict.MISFIT, problem.message, problem.path) if problem else (Verdict.FITS, "", "")


def confine() -> None:
    """Let nothing be opened from now on, nor more memory be taken; where memory lacks, let the kernel take us first."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.dup2(1, 2)  # which is /dev/null: a caller's text in a traceback is for no log
    bounds = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 0, "RLIMIT_AS": MEMORY_BYTES}
    for name, most in bounds.items():
        with suppress(AttributeError, ValueError, OSError):  # macOS bounds no memory
            resource.setrlimit(getattr(resource, name), (most, most))
