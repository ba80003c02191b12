import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.derp import frames
from containers.derp.frames import FrameType, PeerGone, PeerPresent, ProtocolError

KEY = bytes(range(32))


def test_frame_has_type_and_big_endian_length_when_encoded() -> None:
    assert frames.encode(FrameType.PING, b"abcd", b"efgh") == b"\x12\x00\x00\x00\x08abcdefgh"


@given(st.binary(min_size=5, max_size=5))
def test_header_is_bounded_by_one_packet_when_it_is_anything(header: bytes) -> None:
    try:
        _, length = frames.decode_header(header)
    except ProtocolError:
        return
    assert length <= frames.MAX_PACKET_BYTES + 32


@pytest.mark.parametrize(
    ("frame_type", "length"),
    [
        (FrameType.SERVER_KEY, 39),
        (FrameType.RECV_PACKET, 31),
        (FrameType.RECV_PACKET, 64 * 1024 + 33),
        (FrameType.PEER_GONE, 31),
        (FrameType.PING, 7),
        (FrameType.CLOSE_PEER, 33),
        (FrameType.WATCH_CONNECTIONS, 1),
        (0x77, 2**32 - 1),
    ],
)
def test_header_is_refused_when_its_length_is_out_of_bounds(frame_type: int, length: int) -> None:
    with pytest.raises(ProtocolError, match=str(length)):
        frames.decode_header(frames.encode(frame_type)[:1] + length.to_bytes(4, "big"))


def test_header_is_accepted_when_the_packet_is_the_largest() -> None:
    frame = frames.encode(FrameType.RECV_PACKET, KEY, bytes(frames.MAX_PACKET_BYTES))
    assert frames.decode_header(frame[:5]) == (FrameType.RECV_PACKET, len(frame) - 5)


def test_server_key_is_refused_when_the_magic_is_another() -> None:
    assert frames.decode_server_key(b"DERP\xf0\x9f\x94\x91" + KEY + b"future") == KEY.hex()
    with pytest.raises(ProtocolError, match="magic"):
        frames.decode_server_key(b"DERP\xf0\x9f\x94\x92" + KEY)


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_presence_round_trips_when_the_address_is_of_either_family(address: str) -> None:
    present = PeerPresent(key=KEY.hex(), address=address, port=41641, flags=5)
    payload = frames.encode_present(present)[5:]
    assert len(payload) == 51
    assert frames.decode_present(payload) == present
    assert frames.decode_present(payload + b"future") == present


def test_presence_is_read_when_an_old_relay_leaves_fields_out() -> None:
    payload = frames.encode_present(PeerPresent(key=KEY.hex(), address="192.0.2.7", port=1, flags=5))[5:]
    assert frames.decode_present(payload[:32]) == PeerPresent(key=KEY.hex(), address="", port=0, flags=0)
    assert frames.decode_present(payload[:50]).address == "192.0.2.7"
    assert frames.decode_present(payload[:50]).flags == 0


def test_gone_is_a_disconnection_when_an_old_relay_gives_no_reason() -> None:
    assert frames.decode_gone(KEY) == PeerGone(key=KEY.hex(), reason=0)
    assert frames.decode_gone(KEY + b"\x01") == PeerGone(key=KEY.hex(), reason=1)
