"""Certificates in PEM that an operator gives."""


def certificates_of(text: str) -> str:
    """The certificates in `text`, written anew: a private key that stands beside them must not reach any server.

    Raises ValueError where there is none, or one that cannot be read.
    """
    from cryptography import x509  # here, since few panels are given any
    from cryptography.hazmat.primitives.serialization import Encoding

    certificates = x509.load_pem_x509_certificates(text.encode())
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)
