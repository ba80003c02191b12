"""The work that sweeps do with rows: each room declares its own, so that operators see what of it is put off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Model, QuerySet
from django.utils.functional import Promise


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a sweep does with rows.

    `name` (40 characters) is stored with the rows that it puts off and keeps its meaning for good, `title` is what people call it.
    `due` says which rows of `model` are due, in the order in which they have their turn. `do` gets the primary keys of up to
    `together` of them, and does all of that or nothing; it returns how much it did. `limit` is how many rows have their turn in one
    sweep. `whose` leads from a row to the name of the person that it is about.
    """

    name: str
    title: str | Promise
    model: type[Model]
    whose: str
    due: Callable[[datetime], QuerySet[Any]]
    do: Callable[[Sequence[int], datetime], int]
    limit: int | None = None
    together: int = 1


WORKS: dict[str, Work] = {}


def declare(work: Work) -> Work:
    """Let operators see what of this work is put off; raises ValueError for a name that is taken. Each room declares its own."""
    if WORKS.setdefault(work.name, work) is not work:
        raise ValueError(f"declared twice: {work.name}")
    return work
