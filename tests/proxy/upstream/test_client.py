"""What a server says on a connection, and what the sink of the response hears of it; nothing here opens a socket."""

import asyncio
import errno
import gzip
import socket
import ssl
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.events import Failure
from providers.events import FailureKind as K
from proxy.upstream.client import (
    HEADER_BYTES,
    IDLE_S,
    MAX_IDLE_AN_ORIGIN,
    RACE_S,
    Connection,
    NoConnection,
    Origin,
    UpstreamClient,
)
from tests.proxy.upstream.wire import Body, Clock, Completed, Head, Listener, Server

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
HELLO_HEARD = [Head(200, {"content-length": "5"}), Body(b"hello"), Completed()]


def connected(pool: list[Connection] | None = None, clock: Clock | None = None) -> Server:
    return Server(Connection([] if pool is None else pool, clock or Clock()))


def ask(server: Server | None = None) -> tuple[Server, Listener]:
    """Send a request on the connection to `server`, or on a new one."""
    server = server or connected()
    sink = Listener()
    server.connection.send(REQUEST, sink)
    return server, sink


def failure(sink: Listener) -> tuple[K, str]:
    (*_, last) = sink.heard
    assert isinstance(last, Failure)
    return last.kind, last.message


# The request


def test_a_request_as_it_is_sent() -> None:
    origin = Origin("https://api.example.com/v1/", "sk-secret", {"x-title": "Caduceus"})
    assert origin.post("/chat/completions", b'{"a":1}', "gen-7") == (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        b"host: api.example.com\r\n"
        b"accept-encoding: identity\r\n"
        b"user-agent: caduceus\r\n"
        b"authorization: Bearer sk-secret\r\n"
        b"x-title: Caduceus\r\n"
        b"x-request-id: gen-7\r\n"
        b"content-type: application/json\r\n"
        b"content-length: 7\r\n"
        b"\r\n"
        b'{"a":1}'
    )


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_there_is_no_authorization(key: str | None) -> None:
    assert b"authorization" not in Origin("http://127.0.0.1:8000", key, {}).post("/", b"", "gen-7")


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "race_s", "host_header"),
    [
        ("https://api.example.com/v1", "api.example.com", 443, True, RACE_S, b"host: api.example.com\r\n"),
        ("http://api.example.com", "api.example.com", 80, False, RACE_S, b"host: api.example.com\r\n"),
        ("http://10.0.0.1:8000/v1", "10.0.0.1", 8000, False, None, b"host: 10.0.0.1:8000\r\n"),
        ("http://[::1]:8000/v1", "::1", 8000, False, None, b"host: [::1]:8000\r\n"),
        ("https://me:secret@example.com/v1", "example.com", 443, True, RACE_S, b"host: example.com\r\n"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, tls: bool, race_s: float | None, host_header: bytes) -> None:
    origin = Origin(url, None, {})
    assert (origin.host, origin.port, origin.tls, origin.race_s) == (host, port, tls, race_s)
    assert host_header in origin.post("/models", b"", "gen-7")


# A response


def test_a_response_in_one_read() -> None:
    server, sink = ask()
    assert server.sent == [REQUEST]
    server.says(HELLO)
    assert sink.heard == HELLO_HEARD
    assert sink.reads == 1


def test_a_body_is_told_as_it_comes() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert sink.heard == [Head(200, {"content-length": "5"})]
    server.says(b"hel")
    assert sink.heard[1:] == [Body(b"hel")]
    server.says(b"lo")
    assert sink.heard[2:] == [Body(b"lo"), Completed()]
    assert sink.reads == 3


RESPONSES = {
    "length": HELLO,
    "no body": b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\nx-of: the 100\r\n\r\n" + HELLO,
    "hints": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + HELLO,
    "refusal": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}",
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 25\r\n\r\n"
    + gzip.compress(b"hello", mtime=0),
}


@given(st.sampled_from(sorted(RESPONSES)), st.data())
def test_the_cuts_between_reads_change_nothing(name: str, data: st.DataObject) -> None:
    response = RESPONSES[name]
    places = sorted(data.draw(st.sets(st.integers(1, len(response) - 1))))
    server, sink = ask()
    server.says(*(response[start:end] for start, end in zip([0, *places], [*places, None], strict=True)))
    together, together_sink = ask()
    together.says(response)
    assert sink.whole == together_sink.whole
    assert sink.heard[-1] == Completed()
    assert (server.end, together.end) == (None, None)


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_byte_by_byte(name: str) -> None:
    server, sink = ask()
    server.says(*(bytes([byte]) for byte in RESPONSES[name]))
    assert sink.heard[-1] == Completed()
    assert sink.reads == len(RESPONSES[name])


def test_what_is_said_before_the_response_is_not_told() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 100 Continue\r\nx-of: the 100\r\n\r\n")
    assert sink.heard == []
    server.says(HELLO)
    assert sink.heard == HELLO_HEARD


def test_a_response_without_length_ends_with_its_connection() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\nhel", b"lo")
    server.hangs_up()
    assert sink.heard == [Head(200, {"server": "x"}), Body(b"hel"), Body(b"lo"), Completed()]


def test_a_response_without_any_header_ends_with_its_connection() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\n\r\nhello")
    server.hangs_up()
    assert sink.heard == [Head(200), Body(b"hello"), Completed()]


# Encodings


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("x-gzip", gzip.compress(b"hello", mtime=0)),
        ("GZIP", gzip.compress(b"hello", mtime=0)),
        ("deflate", zlib.compress(b"hello")),
        ("identity", b"hello"),
    ],
)
def test_a_body_that_nobody_asked_to_be_compressed_is_decoded(encoding: str, encoded: bytes) -> None:
    server, sink = ask()
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(encoded)}\r\n\r\n"
    server.says(head.encode() + encoded)
    assert sink.heard[1:] == [Body(b"hello"), Completed()]


def test_an_encoding_that_cannot_be_read_is_refused() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 5\r\n\r\nhello")
    assert failure(sink) == (K.CUT, "the response is malformed: content-encoding br was not asked for")
    assert len(sink.heard) == 1
    assert server.end == "aborted"


def test_a_body_that_is_not_what_its_encoding_says_is_malformed() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello")
    assert failure(sink)[0] is K.CUT


# What goes wrong


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")])
def test_nothing_at_all(error: Exception | None) -> None:
    server, sink = ask()
    server.hangs_up(error)
    assert failure(sink) == (K.NO_RESPONSE, f"the connection ended before a response ({error or 'closed'})")


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-ty",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\nserver: x\r\n\r\n",
        b"H",
    ],
)
def test_a_connection_that_ends_within_the_response(said: bytes) -> None:
    server, sink = ask()
    server.says(said)
    server.hangs_up()
    assert failure(sink) == (K.CUT, "the connection ended within the response (closed)")


def test_a_connection_that_breaks_does_not_end_a_response_without_length() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\nhel")
    server.hangs_up(ConnectionResetError("reset by peer"))
    assert failure(sink) == (K.CUT, "the connection ended within the response (reset by peer)")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_response(said: bytes) -> None:
    server, sink = ask()
    server.says(said)
    kind, message = failure(sink)
    assert kind is K.CUT
    assert message.startswith("the response is malformed: ")
    assert server.end == "aborted"


def test_headers_without_end() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\n", *[b"x-more: " + b"a" * 992 + b"\r\n"] * (HEADER_BYTES // 1_000))
    assert sink.heard == []
    server.says(b"x-more: " + b"a" * 992 + b"\r\n")
    assert failure(sink) == (K.PROTOCOL, f"the headers are longer than {HEADER_BYTES} bytes")
    assert server.end == "aborted"


def test_nothing_more_is_heard_after_a_failure() -> None:
    server, sink = ask()
    server.says(b"nonsense\r\n\r\n")
    heard = sink.heard[:]
    server.connection.data_received(HELLO)
    server.hangs_up()
    assert sink.heard == heard


def test_who_leaves_hears_no_more() -> None:
    server, sink = ask()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    heard = sink.heard[:]
    server.connection.abort()
    assert server.end == "aborted"
    server.connection.data_received(b"lo")
    server.hangs_up()
    assert sink.heard == heard


def test_reading_stops_and_goes_on() -> None:
    server, _ = ask()
    server.connection.pause()
    assert not server.reading
    server.connection.resume()
    assert server.reading
    server.hangs_up()
    server.connection.pause()
    assert server.reading  # nobody touches a transport that is gone


# One request after another


def test_a_connection_goes_back_to_its_pool_and_is_used_again() -> None:
    pool: list[Connection] = []
    clock = Clock(100.0)
    server, sink = ask(connected(pool, clock))
    connection = server.connection
    server.says(HELLO[:-1])
    assert pool == []
    server.says(HELLO[-1:])
    assert pool == [connection]
    assert (connection.uses, connection.idle_since_s, server.end) == (1, 100.0, None)

    pool.clear()
    _, again = ask(server)
    server.says(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")
    assert again.heard == [Head(404, {"content-length": "2"}), Body(b"{}"), Completed()]
    assert sink.whole == HELLO_HEARD
    assert (pool, connection.uses) == ([connection], 2)


@pytest.mark.parametrize(
    ("reads", "kind"), [([], K.NO_RESPONSE), ([b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-ty"], K.CUT)]
)
def test_a_second_response_that_is_cut_off_is_not_taken_for_the_first(reads: list[bytes], kind: K) -> None:
    server, _ = ask()
    server.says(HELLO)
    _, again = ask(server)
    server.says(*reads)
    server.hangs_up()
    assert failure(again)[0] is kind


def test_the_encoding_of_a_response_is_not_that_of_the_next() -> None:
    server, _ = ask()
    server.says(RESPONSES["gzip"])
    _, again = ask(server)
    server.says(HELLO)
    assert again.heard == HELLO_HEARD


def test_the_headers_of_each_response_are_measured_apart() -> None:
    server = connected()
    for _ in range(2):
        _, sink = ask(server)
        server.says(b"HTTP/1.1 204 No Content\r\nx-more: " + b"a" * (HEADER_BYTES // 2), b"\r\n\r\n")
        assert sink.heard[-1] == Completed()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
def test_a_connection_that_the_server_will_close_is_closed(said: bytes) -> None:
    pool: list[Connection] = []
    server, sink = ask(connected(pool))
    server.says(said)
    assert sink.heard[-1] == Completed()
    assert (pool, server.end) == ([], "closed")


def test_a_full_pool_takes_no_more() -> None:
    pool = [Connection([], Clock()) for _ in range(MAX_IDLE_AN_ORIGIN)]
    server, sink = ask(connected(pool))
    server.says(HELLO)
    assert sink.heard == HELLO_HEARD
    assert (len(pool), server.end) == (MAX_IDLE_AN_ORIGIN, "closed")


def test_a_connection_that_is_lost_leaves_its_pool() -> None:
    pool: list[Connection] = []
    server, sink = ask(connected(pool))
    server.says(HELLO)
    server.hangs_up()
    assert pool == []
    assert sink.heard == HELLO_HEARD


class Leaver(Listener):
    """Hears the end of the response, and finds in it a reason to leave the connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def completed(self) -> None:
        super().completed()
        self.connection.abort()


def test_a_connection_that_is_left_at_the_end_of_the_response_does_not_go_back() -> None:
    pool: list[Connection] = []
    server = connected(pool)
    server.connection.send(REQUEST, Leaver(server.connection))
    server.says(HELLO)
    assert (pool, server.end) == ([], "aborted")


def test_a_server_that_talks_out_of_turn_is_left() -> None:
    server, sink = ask()
    server.says(HELLO)
    server.says(HELLO)
    assert server.end == "aborted"
    assert sink.heard == HELLO_HEARD


@pytest.mark.parametrize("more", [HELLO, HELLO[:20], b"nonsense"])
def test_a_server_that_says_more_than_its_response_in_the_same_read_is_left(more: bytes) -> None:
    server, sink = ask()
    server.says(HELLO + more)
    assert server.end == "aborted"
    assert sink.heard == HELLO_HEARD


def test_an_empty_line_behind_a_response_is_nothing() -> None:
    server, sink = ask()
    server.says(HELLO + b"\r\n")
    assert server.end is None
    assert sink.heard == HELLO_HEARD


# The pool


class Network:
    """Stands for `loop.create_connection`: everybody who dials reaches a server, unless `error` is raised."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int, bool, float | None]] = []
        self.servers: list[Server] = []
        self.error: Exception | None = None
        self.answers = True

    async def create_connection(
        self,
        factory: Callable[[], Connection],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None,
        happy_eyeballs_delay: float | None,
    ) -> tuple[Server, Connection]:
        self.dialled.append((host, port, ssl is not None, happy_eyeballs_delay))
        if self.error is not None:
            raise self.error
        if not self.answers:
            await asyncio.Event().wait()
        self.servers.append(Server(factory()))
        return self.servers[-1], self.servers[-1].connection


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", network.create_connection)
    return network


def upstream(connect_timeout_s: float = 5.0) -> UpstreamClient:
    """Of three endpoints: "here" and "beside" at one host, "there" at another."""
    origins = {
        "here": Origin("http://10.0.0.1:8000/v1", "sk-here", {}),
        "beside": Origin("http://10.0.0.1:8000/v2", None, {}),
        "there": Origin("https://api.example.com/v1", None, {}),
    }
    return UpstreamClient(origins, connect_timeout_s, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def answered(network: Network, connection: Connection) -> None:
    """Have a request on it answered, so that it goes back to its pool."""
    connection.send(REQUEST, Listener())
    (server,) = (server for server in network.servers if server.connection is connection)
    server.says(HELLO)


async def test_a_connection_is_opened_where_the_url_leads(network: Network) -> None:
    client = upstream()
    await client.connect("here")
    await client.connect("there")
    assert network.dialled == [("10.0.0.1", 8000, False, None), ("api.example.com", 443, True, RACE_S)]


async def test_a_request_names_its_endpoint() -> None:
    request = upstream().request("here", "/completions", b"{}", "gen-7")
    assert request == Origin("http://10.0.0.1:8000/v1", "sk-here", {}).post("/completions", b"{}", "gen-7")


async def test_an_idle_connection_is_taken_again_and_the_youngest_first(network: Network) -> None:
    client = upstream()
    older, younger = await client.connect("here"), await client.connect("here")
    assert older is not younger
    answered(network, older)
    answered(network, younger)
    assert await client.connect("here") is younger
    assert await client.connect("here") is older
    assert await client.connect("here") is network.servers[2].connection


async def test_endpoints_of_one_host_share_their_connections(network: Network) -> None:
    client = upstream()
    connection = await client.connect("here")
    answered(network, connection)
    assert await client.connect("there") is not connection
    assert await client.connect("beside") is connection


async def test_a_fresh_one_leaves_the_idle_one_where_it_is(network: Network) -> None:
    client = upstream()
    idle = await client.connect("here")
    answered(network, idle)
    fresh = await client.connect("here", fresh=True)
    assert (fresh is not idle, fresh.uses) == (True, 0)
    assert await client.connect("here") is idle


@pytest.mark.parametrize(("idle_s", "taken"), [(IDLE_S - 1, True), (IDLE_S, False)])
async def test_a_connection_that_was_idle_for_long_is_dropped(network: Network, idle_s: float, taken: bool) -> None:
    client = upstream()
    idle = await client.connect("here")
    answered(network, idle)
    idle.idle_since_s -= idle_s
    assert (await client.connect("here") is idle) is taken
    assert network.servers[0].end == (None if taken else "aborted")


async def test_a_connection_that_is_gone_is_not_taken(network: Network) -> None:
    client = upstream()
    idle = await client.connect("here")
    answered(network, idle)
    network.servers[0].abort()  # and the loop has not told the connection yet
    assert await client.connect("here") is not idle


async def test_nothing_stays_open_after_close(network: Network) -> None:
    client = upstream()
    idle = await client.connect("here")
    answered(network, idle)
    client.close()
    assert network.servers[0].end == "aborted"
    assert await client.connect("here") is not idle


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        *(
            (
                OSError(number, "no more"),
                Failure(K.OURS, f"no connection is to be had here: [Errno {number}] no more", None, 1.0),
            )
            for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        ),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
            Failure(K.CONNECT, f"ConnectionRefusedError: [Errno {errno.ECONNREFUSED}] refused"),
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "unknown"),
            Failure(K.CONNECT, f"gaierror: [Errno {socket.EAI_NONAME}] unknown"),
        ),
        (ssl.SSLCertVerificationError("expired"), Failure(K.CONNECT, "SSLCertVerificationError: ('expired',)")),
        (TimeoutError(), Failure(K.CONNECT, "TimeoutError: ")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.kind.value,
)
async def test_why_no_connection_is_to_be_had(network: Network, error: Exception, failure: Failure) -> None:
    network.error = error
    with pytest.raises(NoConnection) as raised:
        await upstream().connect("here")
    assert raised.value.failure == failure
    assert str(raised.value) == failure.message


async def test_a_server_that_does_not_take_the_connection_in_time(network: Network) -> None:
    network.answers = False
    with pytest.raises(NoConnection) as raised:
        await upstream(connect_timeout_s=0.0).connect("here")
    assert raised.value.failure.kind is K.CONNECT
