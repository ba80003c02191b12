"""One search over all rooms: each finds its own (the question "search"), and the admin shows what was found beside each other.

What is typed is compared by what an index can look up, so that a search costs the same however much there is.
"""

from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Q, Value

from derpmgmt.lib import queue

# So many of one kind are shown; whoever looks for one of more types more.
MOST_FOUND = 10
# Nothing that is looked for is longer.
LONGEST_SEARCH = 200


@dataclass(frozen=True)
class Found:
    """One row that was found: the kind it is listed under, what it is called, what else tells it apart, and its page."""

    kind: str
    name: str
    text: str
    url: str


def begins_with(field: str, text: str) -> Q:
    """That `field` begins with `text`, asked so that the field's index answers.

    SQLite compares bytes, so there it is a range; MariaDB's LIKE uses an index where it need not be binary.
    """
    if connection.vendor == "sqlite":
        # As a bare value: fields of one line would take the last character that there is for one that nobody can read.
        return Q(**{f"{field}__gte": Value(text), f"{field}__lt": Value(f"{text}\U0010ffff")})
    return Q(**{f"{field}__istartswith": text})


def search(text: str, user: Any) -> list[Found]:
    """What all rooms find for `text` of what `user` may see, kind by kind; nothing for what is empty or too long."""
    text = text.strip()
    if not text or len(text) > LONGEST_SEARCH or "\x00" in text:
        return []
    return list(queue.ask("search", text, user))
