"""What the probe makes of hosts that are broken or hostile: a clear answer in time, whatever they send."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from containers.derp import frames, keys
from containers.derp.client import DerpClient
from containers.derp.frames import FrameType, ProtocolError
from containers.derp.probe import ProbeTarget, probe_relay
from tests.derp.parts import PATIENCE, Certificate, Relay, ScriptedServer

SERVER_PRIVATE = keys.generate_private_key()
SERVER_PUBLIC = keys.public_key_of(SERVER_PRIVATE)
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
SERVER_KEY = frames.encode(FrameType.SERVER_KEY, frames.MAGIC, bytes.fromhex(SERVER_PUBLIC))
TIME_LIMIT = 1.5


def read_request(connection: Any) -> None:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        if not (data := connection.recv(4096)):
            return
        received += data


def say(*answer: bytes, then_wait: bool = True) -> Callable[[Any], None]:
    """A script that reads the HTTP request, sends these bytes, and closes or keeps silent."""

    def script(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b"".join(answer))
        while then_wait and connection.recv(4096):
            pass

    return script


def trickle(prefix: bytes, drop: bytes) -> Callable[[Any], None]:
    """A script that sends a beginning, and then a little more for ever."""

    def script(connection: Any) -> None:
        read_request(connection)
        connection.sendall(prefix)
        while True:
            connection.sendall(drop)
            time.sleep(0.02)

    return script


def flood(prefix: bytes, drop: bytes) -> Callable[[Any], None]:
    """A script that sends a beginning, and then as much as is taken."""

    def script(connection: Any) -> None:
        read_request(connection)
        connection.sendall(prefix)
        while True:
            connection.sendall(drop * 200)

    return script


def introduce(connection: Any, private_key: str = SERVER_PRIVATE) -> None:
    """Play a relay's part of the handshake, naming SERVER_PUBLIC as its key but boxing with this one."""
    read_request(connection)
    connection.sendall(UPGRADED + SERVER_KEY)
    introduction = connection.recv(4096)[frames.HEADER_BYTES :]
    sealed = keys.seal(b'{"version": 2}', private_key=private_key, public_key=introduction[:32].hex())
    connection.sendall(frames.encode(FrameType.SERVER_INFO, sealed))


def wait_for_end(connection: Any) -> None:
    while connection.recv(4096):
        pass


def answer_with(private_key: str) -> Callable[[Any], None]:
    """A script that shakes hands with this key's box, and then only listens."""

    def script(connection: Any) -> None:
        introduce(connection, private_key)
        wait_for_end(connection)

    return script


def target_of(server: ScriptedServer, certificate: Certificate) -> ProbeTarget:
    return Relay(
        "127.0.0.1", server.port, server.port, certificate.sha256, SERVER_PUBLIC, "", lambda: None
    ).target()


HUGE = (2**32 - 1).to_bytes(4, "big")

ENCRYPTED_FAULTS = {
    "silent": (say(), "handshake", "handshake_timed_out"),
    "closes at once": (say(then_wait=False), "handshake", "handshake_closed"),
    "not HTTP": (say(b"220 mail.example ESMTP\r\n\r\n"), "handshake", "handshake_protocol"),
    "binary noise": (say(bytes(range(256)) * 64), "handshake", "handshake_protocol"),
    "a web server": (
        say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        "handshake",
        "handshake_protocol",
    ),
    "a websocket": (
        say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        "handshake",
        "handshake_protocol",
    ),
    "status line only": (say(b"HTTP/1.1\r\n\r\n"), "handshake", "handshake_protocol"),
    "header trickles": (trickle(b"HTTP/1.1 101 x\r\n", b"a"), "handshake", "handshake_timed_out"),
    "header never ends": (flood(b"HTTP/1.1 101 x\r\n", b"a: b\r\n"), "handshake", "handshake_protocol"),
    "frame is huge": (say(UPGRADED, b"\x01", HUGE), "handshake", "handshake_protocol"),
    "unknown frame is huge": (say(UPGRADED, b"\x77", HUGE), "handshake", "handshake_protocol"),
    "frame is truncated": (say(UPGRADED, SERVER_KEY[:-1], then_wait=False), "handshake", "handshake_closed"),
    "frame never completes": (say(UPGRADED, SERVER_KEY[:-1]), "handshake", "handshake_timed_out"),
    "frame trickles": (trickle(UPGRADED + b"\x01\x00\x00\x04\x00", b"x"), "handshake", "handshake_timed_out"),
    "other frame first": (
        say(UPGRADED, frames.encode(FrameType.KEEP_ALIVE)),
        "handshake",
        "handshake_protocol",
    ),
    "other magic": (
        say(UPGRADED, frames.encode(FrameType.SERVER_KEY, b"DREP\xf0\x9f\x94\x91", bytes(32))),
        "handshake",
        "handshake_protocol",
    ),
    "other key": (
        say(UPGRADED, frames.encode(FrameType.SERVER_KEY, frames.MAGIC, bytes(32))),
        "handshake",
        "server_key_mismatch",
    ),
    "two keys": (
        say(UPGRADED[:-2], b"Derp-Public-Key: " + b"ab" * 32 + b"\r\n\r\n", SERVER_KEY),
        "handshake",
        "handshake_protocol",
    ),
    "pings for ever": (
        flood(UPGRADED, frames.encode(FrameType.PING, bytes(8))),
        "handshake",
        "handshake_timed_out",
    ),
    "refused": (say(UPGRADED, SERVER_KEY, then_wait=False), "handshake", "not_admitted"),
    "box of another key": (answer_with(keys.generate_private_key()), "handshake", "handshake_protocol"),
    "info is noise": (
        say(UPGRADED, SERVER_KEY, frames.encode(FrameType.SERVER_INFO, secrets.token_bytes(60))),
        "handshake",
        "handshake_protocol",
    ),
    "info is huge": (say(UPGRADED, SERVER_KEY, b"\x03", HUGE), "handshake", "handshake_protocol"),
    "never delivers": (answer_with(SERVER_PRIVATE), "packet", "packet_timed_out"),
}


@pytest.mark.parametrize("case", ENCRYPTED_FAULTS)
def test_probe_names_the_fault_in_time_when_the_host_misbehaves_under_tls(
    case: str, start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    script, step, cause = ENCRYPTED_FAULTS[case]
    server = start_scripted(script, certificate)
    started = time.monotonic()
    result = probe_relay(target_of(server, certificate), timeout=TIME_LIMIT)
    # The promise is the time limit; the rest is what a loaded machine may take to come back to us.
    assert time.monotonic() - started < TIME_LIMIT + 1
    assert (result.ok, result.step, result.cause) == (False, step, cause)
    assert len(result.detail) <= 300


def close_at_once(connection: Any) -> None:
    connection.recv(1)


def speak_plainly(connection: Any) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    wait_for_end(connection)


def trickle_tls_record(connection: Any) -> None:
    connection.sendall(b"\x16\x03\x03\x40\x00")
    while True:
        connection.sendall(b"\x02")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (wait_for_end, "tls_timed_out"),
        (trickle_tls_record, "tls_timed_out"),
        (close_at_once, "tls_closed"),
        (speak_plainly, "tls_failed"),
    ],
)
def test_probe_names_the_fault_in_time_when_the_host_does_not_speak_tls(
    script: Callable[[Any], None],
    cause: str,
    start_scripted: Callable[..., ScriptedServer],
    certificate: Certificate,
) -> None:
    server = start_scripted(script)
    started = time.monotonic()
    result = probe_relay(target_of(server, certificate), timeout=TIME_LIMIT)
    assert time.monotonic() - started < TIME_LIMIT + 1
    assert (result.ok, result.step, result.cause) == (False, "tls", cause)


def connect(server: ScriptedServer, certificate: Certificate) -> DerpClient:
    return DerpClient.connect("127.0.0.1", server.port, cert_sha256=certificate.sha256, timeout=PATIENCE)


def after_handshake(*answer: bytes) -> Callable[[Any], None]:
    def script(connection: Any) -> None:
        introduce(connection)
        connection.sendall(b"".join(answer))
        wait_for_end(connection)

    return script


@pytest.mark.parametrize(
    "frame",
    [b"\x05" + HUGE, b"\x05\x00\x00\x00\x1f" + bytes(31), b"\x08\x00\x00\x00\x01x", b"\x00" + HUGE],
    ids=["huge packet", "packet without key", "short gone", "huge unknown"],
)
def test_client_stops_when_a_frame_is_out_of_bounds(
    frame: bytes, start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    server = start_scripted(after_handshake(frame), certificate)
    with connect(server, certificate) as client, pytest.raises(ProtocolError):
        client.receive(timeout=PATIENCE)


def test_client_reads_over_frames_when_it_does_not_know_them(
    start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    packet = frames.encode(FrameType.RECV_PACKET, bytes(32), b"hello")
    server = start_scripted(
        after_handshake(
            frames.encode(0x77, b"from the future"),
            frames.encode(FrameType.HEALTH, b"unwell"),
            frames.encode(FrameType.KEEP_ALIVE),
            packet,
        ),
        certificate,
    )
    with connect(server, certificate) as client:
        assert client.receive_packet(timeout=PATIENCE).data == b"hello"


def test_client_answers_when_the_relay_pings(
    start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    received: list[bytes] = []

    def script(connection: Any) -> None:
        introduce(connection)
        connection.sendall(frames.encode(FrameType.PING, b"12345678"))
        received.append(connection.recv(13))
        connection.sendall(frames.encode(FrameType.RECV_PACKET, bytes(32), b"pong seen"))
        wait_for_end(connection)

    server = start_scripted(script, certificate)
    with connect(server, certificate) as client:
        assert client.receive_packet(timeout=PATIENCE).data == b"pong seen"
    assert received == [frames.encode(FrameType.PONG, b"12345678")]


def send_for_ever(client: DerpClient) -> None:
    while True:
        client.send_packet("ab" * 32, bytes(frames.MAX_PACKET_BYTES), timeout=0.5)


def test_sending_ends_in_time_when_the_relay_takes_nothing(
    start_scripted: Callable[..., ScriptedServer], certificate: Certificate
) -> None:
    is_over = threading.Event()

    def script(connection: Any) -> None:
        introduce(connection)
        is_over.wait(PATIENCE)

    server = start_scripted(script, certificate)
    with connect(server, certificate) as client, pytest.raises(TimeoutError):
        send_for_ever(client)
    is_over.set()
