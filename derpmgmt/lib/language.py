"""The language of what is said in a terminal, and of mail that a command sends itself."""

import os

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib import env


def terminal_language() -> str:
    """`zh-hans` or `en`: what DERPMGMT_LANGUAGE says, else the locale (LC_ALL, LC_MESSAGES, LANG, the first that is set, as
    POSIX has it), else the panel's own language. Languages that the panel does not speak, and the locale C, mean English.

    Raises `ImproperlyConfigured` when DERPMGMT_LANGUAGE names neither Chinese nor English.
    """
    if chosen := env.read("LANGUAGE"):
        language = _match(chosen)
        if not language:
            raise ImproperlyConfigured(f"DERPMGMT_LANGUAGE: zh-hans or en, not {chosen!r}")
        return language
    locale = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return (_match(locale) or "en") if locale else settings.LANGUAGE_CODE


def _match(name: str) -> str:
    word = name.lower().replace("_", "-").partition(".")[0].partition("-")[0]
    return {"zh": "zh-hans", "en": "en"}.get(word, "")
