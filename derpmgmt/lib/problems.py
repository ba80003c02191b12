"""What went wrong, as it is stored: a code, and the values that its sentence needs. Whoever reads it gets the sentence in their
own language.

Each room declares the sentences of its codes where it is loaded. A code keeps its meaning for good, since rows hold it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

INTERNAL = "internal"
_SENTENCES: dict[str, str | Promise] = {INTERNAL: _("The panel made a mistake here; it is in its log.")}

_later: list[str] = []


def declare(sentences: Mapping[str, str | Promise]) -> None:
    """Say what these codes mean; sentences are lazy translations. Raises ValueError for a code that has a meaning already."""
    for code, sentence in sentences.items():
        if _SENTENCES.setdefault(code, sentence) is not sentence:
            raise ValueError(f"{code} means something already")


def declare_later(*modules: str) -> None:
    """Say which modules declare more codes: they are imported when somebody reads one that is not known yet."""
    _later.extend(modules)


def declare_all() -> None:
    """Import what was to be imported later."""
    while _later:
        import_module(_later.pop(0))


def sentence_of(code: str) -> str | Promise:
    """The sentence of a code, with places for values; empty for a code that nobody declared."""
    while code and code not in _SENTENCES and _later:
        import_module(_later.pop(0))
    return _SENTENCES.get(code, "")


def translate(sentence: str, values: Mapping[str, Any]) -> str:
    """A stored English sentence in the active language; one that the catalogue no longer has stays English."""
    if not sentence:
        return ""
    return gettext(sentence) % values if values else gettext(sentence)


def explain(code: str, values: Mapping[str, Any] | None = None, sentence: str = "") -> str:
    """What was stored, in the active language: by its own English sentence if it has one, else by its code."""
    if sentence:
        return translate(sentence, values or {})
    found = str(sentence_of(code)) or code
    try:
        return found % values if values else found
    except (
        KeyError,
        ValueError,
        TypeError,
    ):  # of another version of the panel, whose sentence had other places
        return found


@dataclass(frozen=True)
class Problem:
    """Why something failed, in a form that can be stored and read in any language later.

    `sentence` is empty where the code was declared, else the English text as it stands in the code (the msgid); `values` is
    what is filled in, `detail` the host's own words.
    """

    code: str
    sentence: str = ""
    values: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    @classmethod
    def of(cls, error: Any) -> "Problem":
        """The problem behind an exception that has `code`, `sentence`, `values` and `detail`, as `RemoteError` does."""
        with translation.override(None):
            sentence, declared = str(error.sentence), str(sentence_of(error.code))
        return cls(
            error.code,
            "" if sentence == declared else sentence,
            {key: str(value) for key, value in error.values.items()},
            error.detail,
        )

    @property
    def text(self) -> str:
        """The sentence in the active language."""
        return explain(self.code, self.values, self.sentence)
