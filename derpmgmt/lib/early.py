"""What the panel says before there are settings, in the terminal's language: Django's own translation is made of settings.

The sentences are in Django's catalogue like all others.
"""

import gettext as catalogues
import os
from functools import cache
from pathlib import Path

LOCALE_DIR = Path(__file__).resolve().parents[2] / "locale"
# Of the panel, where nothing says otherwise.
LANGUAGE_CODE = "zh-hans"
_CATALOGUES = {"zh-hans": "zh_Hans"}


def match_language(name: str) -> str:
    """`zh-hans` or `en` for a language or a locale such as `zh_CN.UTF-8`; "" for what the panel does not speak."""
    word = name.lower().replace("_", "-").partition(".")[0].partition("-")[0]
    return {"zh": "zh-hans", "en": "en"}.get(word, "")


def locale_language() -> str:
    """What the locale says (LC_ALL, LC_MESSAGES, LANG, the first that is set, as POSIX has it), else the panel's own language.

    Languages that the panel does not speak, and the locale C, mean English.
    """
    locale = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return (match_language(locale) or "en") if locale else LANGUAGE_CODE


def gettext(text: str) -> str:
    """`text` in the language of DERPMGMT_LANGUAGE, else of the locale."""
    language = match_language(os.environ.get("DERPMGMT_LANGUAGE", "")) or locale_language()
    return _catalogue(_CATALOGUES.get(language, "")).gettext(text)


@cache
def _catalogue(folder: str) -> catalogues.NullTranslations:
    if not folder:
        return catalogues.NullTranslations()
    return catalogues.translation("django", LOCALE_DIR, [folder], fallback=True)
