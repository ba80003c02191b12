"""The certificate a relay serves."""

import hashlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from containers.certificates import make_certificate

NOW = datetime(2026, 11, 22, 8, 30, 15, 999, tzinfo=UTC)


def test_certificate_names_the_address_when_made():
    made = make_certificate("203.0.113.9", NOW)
    parsed = x509.load_pem_x509_certificate(made.pem.encode())
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("203.0.113.9")]
    assert parsed.subject.rfc4514_string() == "CN=203.0.113.9"
    key = parsed.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert load_pem_private_key(made.key_pem.encode(), None).public_key() == key


def test_pin_is_the_hash_of_the_der_bytes_when_made():
    made = make_certificate("203.0.113.9", NOW)
    assert made.sha256 == hashlib.sha256(ssl.PEM_cert_to_DER_cert(made.pem)).hexdigest()


def test_validity_begins_an_hour_back_when_clocks_may_differ():
    beijing = NOW.astimezone(timezone(timedelta(hours=8)))
    made = make_certificate("203.0.113.9", beijing, days=30)
    parsed = x509.load_pem_x509_certificate(made.pem.encode())
    assert parsed.not_valid_before_utc == datetime(2026, 11, 22, 7, 30, 15, tzinfo=UTC)
    assert parsed.not_valid_after_utc == made.not_after == datetime(2026, 12, 22, 8, 30, 15, tzinfo=UTC)


def test_each_certificate_has_a_key_and_a_serial_of_its_own_when_made_twice():
    first, second = make_certificate("203.0.113.9", NOW), make_certificate("203.0.113.9", NOW)
    assert first.key_pem != second.key_pem
    assert first.sha256 != second.sha256


def test_key_is_hidden_when_printed():
    made = make_certificate("203.0.113.9", NOW)
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize(
    ("address", "now", "reason"),
    [
        ("relay.example", NOW, "4 octets"),
        ("2001:db8::1", NOW, "4 octets"),
        ("", NOW, "empty"),
        ("203.0.113.9", NOW.replace(tzinfo=None), "time zone"),
    ],
)
def test_bad_input_is_refused_when_certificate_is_made(address, now, reason):
    with pytest.raises(ValueError, match=reason):
        make_certificate(address, now)
