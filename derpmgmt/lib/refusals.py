"""The shape of every refusal: a code for scripts and logs, a sentence for people."""

from typing import Any


class Refusal(Exception):
    """What was asked for is not done; `code` is a slug for scripts and logs, `str()` the sentence for people.

    The sentence is in the language that is active when it is read.
    """

    code = "refused"
    sentence: Any

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.values = values

    def __str__(self) -> str:
        return str(self.sentence) % self.values
