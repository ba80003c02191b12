import secrets
import socket
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.derp import stun
from containers.derp.frames import ProtocolError
from tests.derp.parts import PATIENCE, Relay, say_noise, say_nothing, udp_server

# Sample answers of RFC 5769, sections 2.2 and 2.3, without the attributes that sign them.
RFC_TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
RFC_IPV4 = "0101000c2112a442b7e7a701bc34d686fa87dfae002000080001a147e112a643"
RFC_IPV6 = "010100182112a442b7e7a701bc34d686fa87dfae002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"


@pytest.mark.parametrize(
    ("datagram", "address"), [(RFC_IPV4, "192.0.2.1"), (RFC_IPV6, "2001:db8:1234:5678:11:2233:4455:6677")]
)
def test_address_is_read_and_written_when_the_answer_is_the_rfc_one(datagram: str, address: str) -> None:
    assert stun.decode_answer(bytes.fromhex(datagram), RFC_TRANSACTION) == (address, 32853)
    assert stun.encode_answer(RFC_TRANSACTION, address, 32853).hex() == datagram


@given(st.binary(max_size=80))
def test_answer_is_refused_when_it_is_garbage(datagram: bytes) -> None:
    with pytest.raises(ProtocolError):
        stun.decode_answer(datagram, RFC_TRANSACTION)
    with pytest.raises(ProtocolError):
        stun.decode_request(datagram)


@given(st.integers(0, 43), st.integers(1, 255))
def test_answer_never_breaks_the_reader_when_one_byte_is_changed(position: int, change: int) -> None:
    datagram = bytearray.fromhex(RFC_IPV6)
    datagram[position] ^= change
    try:
        stun.decode_answer(bytes(datagram), RFC_TRANSACTION)
    except ProtocolError:
        return
    # What is left unchecked by the format: the address itself, its port, and a reserved byte.
    assert position >= 24


def malformed_requests() -> dict[str, bytes]:
    good = stun.encode_request(secrets.token_bytes(12))
    return {
        "no fingerprint": good[:2] + b"\x00\x0c" + good[4:-8],
        "wrong fingerprint": good[:-1] + bytes([good[-1] ^ 1]),
        "other software": good.replace(b"tailnode", b"trailing"),
        "an answer": b"\x01\x01" + good[2:],
        "other cookie": good[:4] + b"\0\0\0\0" + good[8:],
        "truncated": good[:-3],
        "empty": b"",
        "noise": secrets.token_bytes(40),
    }


@pytest.mark.parametrize("case", malformed_requests())
def test_relay_stays_silent_when_the_request_is_malformed(case: str, relay: Relay) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((relay.address, relay.stun_port))
        client.send(malformed_requests()[case])
        transaction = secrets.token_bytes(12)
        client.send(stun.encode_request(transaction))
        # The first answer is the one to the good request, so the malformed one got none.
        assert stun.decode_answer(client.recv(2048), transaction) == client.getsockname()


def test_query_returns_our_address_when_a_relay_answers(relay: Relay) -> None:
    answer = stun.query(relay.address, relay.stun_port, timeout=PATIENCE)
    assert answer.address == "127.0.0.1"
    assert answer.port > 0
    assert answer.milliseconds > 0


def test_query_asks_three_times_when_nobody_answers() -> None:
    with udp_server(say_nothing) as (port, seen):
        with pytest.raises(TimeoutError):
            stun.query("127.0.0.1", port, timeout=1.8)
        assert len(seen) == 3
        assert len(set(seen)) == 3


def test_query_succeeds_when_only_the_last_request_is_answered() -> None:
    requests: list[bytes] = []

    def answer_third(datagram: bytes, client: tuple[str, int]) -> bytes | None:
        requests.append(datagram)
        return stun.encode_answer(stun.decode_request(datagram), *client) if len(requests) == 3 else None

    with udp_server(answer_third) as (port, _):
        assert stun.query("127.0.0.1", port, timeout=PATIENCE).address == "127.0.0.1"


def test_query_succeeds_when_the_first_answer_comes_after_the_second_request() -> None:
    requests: list[bytes] = []

    def answer_first_late(datagram: bytes, client: tuple[str, int]) -> bytes | None:
        requests.append(datagram)
        return stun.encode_answer(stun.decode_request(requests[0]), *client) if len(requests) == 2 else None

    with udp_server(answer_first_late) as (port, _):
        assert stun.query("127.0.0.1", port, timeout=PATIENCE).milliseconds >= 500


def answer_other(datagram: bytes, client: tuple[str, int]) -> bytes:
    return stun.encode_answer(bytes(12), *client)


def echo(datagram: bytes, client: tuple[str, int]) -> bytes:
    return datagram


@pytest.mark.parametrize("answer", [answer_other, say_noise, echo])
def test_query_fails_when_the_answer_is_not_ours(answer: Callable[[bytes, tuple[str, int]], bytes]) -> None:
    with udp_server(answer) as (port, _), pytest.raises(ProtocolError):
        stun.query("127.0.0.1", port, timeout=0.4)


def test_query_is_refused_when_no_one_listens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        stun.query("127.0.0.1", port, timeout=PATIENCE)


def test_a_kept_port_is_answered_once_somebody_listens_there_again() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    asking: list[tuple[str, int]] = []

    def answer(datagram: bytes, client: tuple[str, int]) -> bytes:
        asking.append(client)
        return stun.encode_answer(stun.decode_request(datagram), *client)

    with stun.KeptPort("127.0.0.1", port) as kept:
        time.sleep(2 * stun.KeptPort.INTERVAL)  # refused meanwhile
        with udp_server(answer, port=port):
            assert kept.query(timeout=PATIENCE).address == "127.0.0.1"
    assert len(set(asking)) == 1


def test_a_kept_port_notices_that_it_alone_is_not_answered() -> None:
    first: list[tuple[str, int]] = []

    def answer_others(datagram: bytes, client: tuple[str, int]) -> bytes | None:
        first.append(client)
        return None if client == first[0] else stun.encode_answer(stun.decode_request(datagram), *client)

    with udp_server(answer_others) as (port, seen), stun.KeptPort("127.0.0.1", port) as kept:
        while not seen:
            time.sleep(0.02)
        assert stun.query("127.0.0.1", port, timeout=PATIENCE).port != first[0][1]
        with pytest.raises(TimeoutError):
            kept.query(timeout=1.6)


def answer_to(datagram: bytes, client: tuple[str, int]) -> bytes:
    return stun.encode_answer(stun.decode_request(datagram), client[0], client[1])


def test_nothing_is_lost_and_times_hardly_differ_when_all_is_answered(relay: Relay) -> None:
    found = stun.measure(relay.address, relay.stun_port, packets=6, pause=0.01)
    assert found.loss == 0
    assert found.jitter_ms is not None
    assert 0 <= found.jitter_ms < 500


def test_loss_is_the_share_that_is_not_answered() -> None:
    number = 0

    def every_fourth(datagram: bytes, client: tuple[str, int]) -> bytes | None:
        nonlocal number
        number += 1
        return None if number % 4 == 0 else answer_to(datagram, client)

    with udp_server(every_fourth) as (port, seen):
        found = stun.measure("127.0.0.1", port, packets=8, pause=0.01, patience=0.3)
    assert (found.loss, len(seen)) == (0.25, 8)


def test_jitter_shows_when_answers_come_unevenly() -> None:
    number = 0

    def slow(datagram: bytes, client: tuple[str, int]) -> bytes:
        nonlocal number
        number += 1
        if number % 2:
            time.sleep(0.02)
        return answer_to(datagram, client)

    with udp_server(slow) as (port, _seen):
        found = stun.measure("127.0.0.1", port, packets=6, pause=0.05)
    assert found.jitter_ms is not None
    assert 10 < found.jitter_ms < 200


@pytest.mark.parametrize("answer", [say_nothing, say_noise])
def test_all_is_lost_when_no_answer_is_one(answer: Callable[[bytes, tuple[str, int]], bytes | None]) -> None:
    with udp_server(answer) as (port, _seen):
        begun = time.monotonic()
        found = stun.measure("127.0.0.1", port, packets=4, pause=0.01, patience=0.2)
    assert (found.loss, found.jitter_ms) == (1.0, None)
    assert time.monotonic() - begun < 2


def test_all_is_lost_when_nobody_listens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert stun.measure("127.0.0.1", port, packets=4, pause=0.01, patience=0.2).loss == 1.0


def test_jitter_is_the_mean_difference_of_neighbours() -> None:
    assert stun.jitter_of([10.0, 14.0, 12.0]) == 3.0
    assert stun.jitter_of([10.0]) is None
