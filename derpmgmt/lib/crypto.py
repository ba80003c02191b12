"""Secrets at rest: an encrypted model field, and keyed hashes for what must be found without being stored."""

import hmac
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models


class DecryptionFailed(Exception):
    """A stored secret cannot be read with the keys of this panel."""


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(text: str) -> str:
    """`text` encrypted with the newest of `settings.FIELD_KEYS` (Fernet: AES-128-CBC and HMAC-SHA256)."""
    return _cipher(tuple(settings.FIELD_KEYS)).encrypt(text.encode()).decode()


def decrypt(token: str) -> str:
    """The text of a token, whichever of `settings.FIELD_KEYS` made it; raises `DecryptionFailed` when none did."""
    try:
        return _cipher(tuple(settings.FIELD_KEYS)).decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise DecryptionFailed("a stored secret does not open with the keys of this panel") from error


def keyed_hash(purpose: str, text: str) -> str:
    """HMAC-SHA256 (64 hex digits) of `text` under the look-up key; `purpose` keeps the uses apart."""
    return hmac.digest(settings.LOOKUP_KEY.encode(), f"{purpose}\0{text}".encode(), "sha256").hex()


class EncryptedTextField(models.TextField):
    """Text that the database only ever sees encrypted.

    The empty string stays empty. Reading with a wrong key raises `DecryptionFailed`; comparing in a query raises `FieldError`,
    since equal texts have unequal ciphertexts.
    """

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return encrypt(value) if value else value

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> str | None:
        return decrypt(value) if value else value

    def get_lookup(self, lookup_name: str) -> Any:
        if lookup_name == "isnull":
            return super().get_lookup(lookup_name)
        raise FieldError(f"{self.name} is encrypted and cannot be looked up")
