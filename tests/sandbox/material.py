"""Certificates and keys for relays of tests."""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(address: str) -> tuple[bytes, bytes]:
    """A self-signed certificate for an IP address and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed.public_bytes(pem), private


def relay_files(address: str) -> dict[str, bytes]:
    """What the volume of a relay holds: certificate, its key, and the relay's private key."""
    certificate_pem, key_pem = certificate(address)
    return {
        f"{address}.crt": certificate_pem,
        f"{address}.key": key_pem,
        "derper.key": json.dumps({"PrivateKey": "privkey:" + secrets.token_hex(32)}).encode(),
    }
