import pytest

from containers.derp import keys

# Alice's pair of RFC 7748, section 6.1.
PRIVATE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


def test_public_key_is_curve25519_when_private_key_is_the_rfc_one() -> None:
    assert keys.public_key_of(PRIVATE) == PUBLIC


def test_generated_keys_are_clamped_and_differ_when_made_often() -> None:
    generated = [bytes.fromhex(keys.generate_private_key()) for _ in range(50)]
    assert len(set(generated)) == 50
    assert all(key[0] & 7 == 0 and key[31] & 0xC0 == 0x40 for key in generated)


@pytest.mark.parametrize("text", [PRIVATE, f"privkey:{PRIVATE}", f"  privkey:{PRIVATE.upper()}\n"])
def test_private_key_is_read_when_written_in_any_form(text: str) -> None:
    assert keys.parse_private_key(text) == PRIVATE
    assert keys.format_private_key(keys.parse_private_key(text)) == f"privkey:{PRIVATE}"


def test_node_key_round_trips_when_prefixed() -> None:
    assert keys.parse_node_key(keys.format_node_key(PUBLIC)) == PUBLIC
    assert keys.format_node_key(PUBLIC) == f"nodekey:{PUBLIC}"


@pytest.mark.parametrize(
    "text",
    ["", "privkey:", PRIVATE[:-1], PRIVATE + "0", "g" * 64, f"nodekey:{PRIVATE}", f"{PRIVATE}\n{PRIVATE}"],
)
def test_private_key_is_refused_without_being_repeated_when_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="not a key") as caught:
        keys.parse_private_key(text)
    assert PRIVATE[:16] not in str(caught.value)


def test_box_opens_when_sealed_for_its_owner_only() -> None:
    sender, receiver = keys.generate_private_key(), keys.generate_private_key()
    sealed = keys.seal(b"hello", private_key=sender, public_key=keys.public_key_of(receiver))
    assert keys.open_box(sealed, private_key=receiver, public_key=keys.public_key_of(sender)) == b"hello"
    for damaged in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", sealed[:10]):
        with pytest.raises(ValueError, match="does not open"):
            keys.open_box(damaged, private_key=receiver, public_key=keys.public_key_of(sender))
    with pytest.raises(ValueError, match="does not open"):
        keys.open_box(sealed, private_key=sender, public_key=keys.public_key_of(receiver)[::-1])


def test_box_is_refused_when_the_public_key_is_zero() -> None:
    with pytest.raises(ValueError, match="not a usable public key"):
        keys.seal(b"hello", private_key=PRIVATE, public_key="0" * 64)
