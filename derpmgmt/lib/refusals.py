"""The one shape of all that is not done: a code, a sentence, the values in it, and what of the input it is about.

Pages show the sentence, commands print it, and `--json` and the API answer with `as_json`.
"""

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


class Refusal(Exception):
    """What was asked for is not done.

    `code` is a slug for programs and logs; `str()` the sentence for people, in the language that is active when it is read;
    `values` what is filled into it; `field` the input that it is about, "" for none; `detail` the words of a program or host
    that stand behind it. A kind has a code and a sentence of its own, or is given them where it is raised.
    """

    code: str = "refused"
    sentence: str | Promise = _("This cannot be done.")
    field: str = ""

    def __init__(
        self,
        sentence: str | Promise = "",
        *,
        code: str = "",
        field: str = "",
        detail: str = "",
        **values: Any,
    ) -> None:
        super().__init__(code or self.code)
        self.code = code or self.code
        self.sentence = sentence or self.sentence
        self.field = field or self.field
        self.detail = detail
        self.values = values

    def __str__(self) -> str:
        return str(self.sentence) % self.values if self.values else str(self.sentence)

    def details(self) -> dict[str, Any]:
        """What programs may want beside the sentence: the values in it, the input (`field`) and the words of others (`words`)."""
        values = {
            name: value if isinstance(value, int) else str(value) for name, value in self.values.items()
        }
        more = {"field": self.field, "words": self.detail}
        return values | {name: value for name, value in more.items() if value}

    def as_json(self) -> dict[str, Any]:
        """The refusal for programs: `code`, `message`, `details`."""
        return {"code": self.code, "message": str(self), "details": self.details()}


class NotSent(Refusal):
    """A service did not take a message.

    `reason` is what it said, without any secret, or an English sentence marked for translation. `is_final`: it never will.
    `is_in_doubt`: there was no answer that says so, and it may have taken the message all the same.
    """

    code = "not_sent"
    sentence = _("The message was not sent: %(reason)s")

    def __init__(self, reason: str = "", *, is_final: bool = False, is_in_doubt: bool = False) -> None:
        super().__init__(reason=reason)
        self.reason, self.is_final, self.is_in_doubt = reason, is_final, is_in_doubt
