"""User names that nobody mistakes for another's: which characters they have, and how a typed one is put in order.

Letters of several scripts look alike (Latin and Cyrillic a), and some cannot be seen at all or turn the text around (UTS 39). So a name
has the letters a to z, Chinese characters, digits, and three signs; full-width and other forms of these become these (NFKC). What is
left of it are pairs as l and 1: nobody may look like one of the staff that way.
"""

import re
import unicodedata

from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _

LONGEST = 30
# The blocks of unified ideographs; NFKC turns compatibility forms and radicals into these.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
# The signs may be there or not, which nobody notices either.
_ALIKE = str.maketrans("1i0", "llo", "_.-")
_FOREIGN = re.compile(rf"[^a-z0-9{_HAN}_.-]")
VALIDATORS = [
    RegexValidator(
        rf"^[a-zA-Z0-9{_HAN}_.-]{{2,{LONGEST}}}\Z",
        _("Use 2 to 30 of these: letters a to z, Chinese characters, digits, hyphens, dots, underscores."),
    )
]


def normalize(text: str) -> str:
    """The name that was meant: in the common form of its characters, lower case, without blanks around."""
    return unicodedata.normalize("NFKC", text).strip().lower()


def keep_allowed(text: str) -> str:
    """What of `text` may stand in a name."""
    return _FOREIGN.sub("", normalize(text))


def shape(name: str) -> str:
    """What names have in common that look alike, by the pairs of UTS 39 that are left: `adm1n` and `admin`, `rn` and `m`."""
    alike = name.translate(_ALIKE)
    for pair, letter in (("rn", "m"), ("vv", "w"), ("cl", "d")):
        alike = alike.replace(pair, letter)
    return alike
