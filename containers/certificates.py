"""The self-signed certificate that a relay serves and that the customers' maps pin."""

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clients check notBefore against their own clock, which may run behind ours.
CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its private key.

    `sha256` is the lowercase hex SHA-256 of the DER bytes: after `sha256-raw:` it is the pin that a DERP map
    carries as CertName. `not_after` is in UTC with whole seconds.
    """

    pem: str
    key_pem: str = field(repr=False)
    sha256: str
    not_after: datetime


def make_certificate(address: str, now: datetime, days: int = 365) -> Certificate:
    """Make a fresh ECDSA P-256 certificate for an IPv4 address, valid from an hour before `now` for `days` after it.

    The address stands in the subject's common name and as an IP address in the subject alternative names, where
    both derper (when it loads the pair) and Tailscale's clients (beside the pin) look for it. `now` must carry a
    time zone. Raises ValueError for anything that is not an IPv4 address and for a naive `now`.
    """
    ip = ipaddress.IPv4Address(address)
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    start = now.astimezone(UTC).replace(microsecond=0)
    not_after = start + timedelta(days=days)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(ip))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key_pem.decode(),
        sha256=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
        not_after=not_after,
    )
