"""Queries that are asked many times a second, with their SQL made once.

Django takes most of a millisecond to make the SQL of a query, which is several times what the database takes to answer one by an index.
What may differ from one asking to the next are numbers, moments, days and texts.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection, models
from django.db.models import Aggregate, QuerySet
from django.db.models.query import get_related_populators

# What stands in the place of a value while the SQL is made, and is nobody's value.
_FIRST_NUMBER = 7_310_000_000_000_000_001
_FIRST_MOMENT = datetime(9173, 1, 1, tzinfo=UTC)
_TEXT = "in the place of a text"

Value = int | datetime | date | str


class Prepared:
    """A query as `build` makes it from what is given: `shape` decides about its SQL, `values` (integers, moments, days, texts) stand in it.

    `build(*shape, **values)` is called once for each shape, with stand-ins for the values; it must put each of them into the query and may
    look at none. The queryset has `.values(…)`, or gives rows of its model, with what it selects of related ones.
    """

    def __init__(self, build: Callable[..., QuerySet[Any, Any]]) -> None:
        self._build = build
        self._made: dict[tuple[Any, ...], _Made] = {}

    def read(self, *shape: Any, **values: Value) -> list[Any]:
        """The rows: dictionaries, or objects of the model. One query."""
        key = (connection.vendor, *shape)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(shape, values)
        return made.read(values)

    def _make(self, shape: tuple[Any, ...], values: dict[str, Value]) -> "_Made":
        stand_ins: dict[str, Value] = {
            name: _stand_in(value, at) for at, (name, value) in enumerate(values.items())
        }
        return _Made(self._build(*shape, **stand_ins), stand_ins)


def in_all(rows: QuerySet[Any, Any], **sums: Aggregate) -> QuerySet[Any, Any]:
    """What `rows.aggregate(**sums)` gives, as a query of one row."""
    return rows.order_by().values(in_all=models.Value(1)).annotate(**sums)


class _Made:
    """The SQL of one shape, and how its rows are read."""

    def __init__(self, rows: QuerySet[Any, Any], stand_ins: dict[str, Value]) -> None:
        compiler = rows.query.get_compiler(connection=connection)
        self._sql, given = compiler.as_sql()
        names = {adapt(value): name for name, value in stand_ins.items()}
        # A value's name, or "" and what stands there always.
        self._given = [(names.get(value, ""), value) for value in given]
        missing = set(stand_ins) - {name for name, _value in self._given}
        assert not missing, f"not in the query: {missing}"
        assert not compiler.has_extra_select, "distinct rows are ordered by what is not among their columns"
        found = compiler.get_converters([column for column, *_rest in compiler.select])
        self._converters = [
            (at, _quicker(convert), expression)
            for at, (converters, expression) in found.items()
            for convert in converters
        ]
        self._is_values = rows._fields is not None  # type: ignore[attr-defined]
        if self._is_values:
            self._names = list(
                rows.query.selected or (*rows.query.values_select, *rows.query.annotation_select)
            )
            return
        # As Django's own ModelIterable does.
        info = compiler.klass_info
        self._model, own = info["model"], info["select_fields"]
        self._own = slice(own[0], own[-1] + 1)
        self._names = [column.target.attname for column, *_rest in compiler.select[self._own]]
        self._related = get_related_populators(info, compiler.select, connection.alias)  # type: ignore[call-arg]
        self._annotated = list(compiler.annotation_col_map.items())

    def read(self, values: dict[str, Value]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(self._sql, [adapt(values[name]) if name else value for name, value in self._given])
            found = cursor.fetchall()
        rows = [self._convert(list(row)) for row in found]
        if self._is_values:
            return [dict(zip(self._names, row, strict=True)) for row in rows]
        return [self._build(row) for row in rows]

    def _build(self, row: list[Any]) -> Any:
        made = self._model.from_db(connection.alias, self._names, row[self._own])
        for related in self._related:
            related.populate(row, made)
        for name, at in self._annotated:
            setattr(made, name, row[at])
        return made

    def _convert(self, row: list[Any]) -> list[Any]:
        for at, convert, expression in self._converters:
            row[at] = convert(row[at], expression, connection)
        return row


def _quicker(convert: Callable[..., Any]) -> Callable[..., Any]:
    """MariaDB's moments are naive and in UTC: Django's own way looks up the zone, and whether it is one, for each of them."""
    if connection.vendor == "mysql" and convert == connection.ops.convert_datetimefield_value:  # type: ignore[attr-defined]
        return _in_utc
    return convert


def _in_utc(value: datetime | None, *_about: Any) -> datetime | None:
    return value.replace(tzinfo=UTC) if value is not None else None


def _stand_in(value: Value, number: int) -> Value:
    if isinstance(value, datetime):
        return _FIRST_MOMENT + timedelta(days=number)
    if isinstance(value, date):
        return _FIRST_MOMENT.date() + timedelta(days=number)
    return f"{_TEXT} {number}" if isinstance(value, str) else _FIRST_NUMBER + number


def adapt(value: Any) -> Any:
    """A number, moment, day or text as the backend sends it."""
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return connection.ops.adapt_datefield_value(value) if isinstance(value, date) else value
