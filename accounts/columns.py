"""Columns of the admin's lists: moments stand there as how long ago they were."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import DateTimeField, Model
from django.utils.safestring import SafeString

from derpmgmt.lib.moments import age


class AgeColumn:
    """A field with a moment as a column: "3 minutes ago", and the moment itself where a mouse rests on it."""

    def __init__(self, field: Any) -> None:
        self.__name__ = self.admin_order_field = field.name
        self.short_description = field.verbose_name

    def __call__(self, row: Any) -> SafeString | str | None:
        value: datetime | None = getattr(row, self.__name__)
        return age(value) or None


@cache
def _column(model: type[Model], name: str) -> AgeColumn | None:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return AgeColumn(field) if isinstance(field, DateTimeField) else None


def with_ages(model: type[Model], names: Iterable[Any]) -> list[Any]:
    """The columns of a list, with `AgeColumn` in the place of names of moments."""
    return [(_column(model, name) if isinstance(name, str) else None) or name for name in names]
