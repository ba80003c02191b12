"""Adding to many sums, and moving rows, by one statement each, whose SQL is made without the ORM: visits do it all day.

The names in it are those of our own tables. Values are numbers, moments, days and texts of the fields' own kinds.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from django.db import connection, models

from derpmgmt.lib.prepared import adapt


def add_to_sums(
    model: type[models.Model],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    added: Sequence[str],
    replaced: Sequence[str] = (),
) -> None:
    """Add `rows` (by names of fields or columns) to the table's: those with the same `key`, which must be its primary key, get the
    `added` values on top of theirs and the `replaced` ones instead of theirs. Nothing is done where there are no rows.
    """
    if not rows:
        return
    names = (*key, *added, *replaced)
    begin, end = _adding(connection.vendor, model, tuple(key), tuple(added), tuple(replaced))
    places = f"({', '.join(['%s'] * len(names))})"
    with connection.cursor() as cursor:
        cursor.execute(
            f"{begin} {', '.join([places] * len(rows))} {end}",
            [adapt(row[name]) for row in rows for name in names],
        )


@cache
def _adding(
    vendor: str,
    model: type[models.Model],
    key: tuple[str, ...],
    added: tuple[str, ...],
    replaced: tuple[str, ...],
) -> tuple[str, str]:
    """What stands before and after the values."""
    table, columns = _names(model, (*key, *added, *replaced))

    def given(name: str) -> str:
        return f"VALUES({columns[name]})" if vendor == "mysql" else f"excluded.{columns[name]}"

    sets = [f"{columns[name]} = {table}.{columns[name]} + {given(name)}" for name in added]
    sets += [f"{columns[name]} = {given(name)}" for name in replaced]
    keys = ", ".join(columns[name] for name in key)
    clash = "ON DUPLICATE KEY UPDATE" if vendor == "mysql" else f"ON CONFLICT ({keys}) DO UPDATE SET"
    return f"INSERT INTO {table} ({', '.join(columns.values())}) VALUES", f"{clash} {', '.join(sets)}"


def move_rows(
    model: type[models.Model],
    rows: Sequence[tuple[int, Sequence[Any], Sequence[Any]]],
    *,
    expected: Sequence[str],
    moved: Sequence[str],
) -> int:
    """Give rows new values where they still have the old ones; returns how many did.

    Each of `rows` is a primary key, what its `expected` fields have been, and what its `moved` ones become.
    """
    pk = model._meta.pk.name
    table, columns = _names(model, (pk, *expected, *moved))
    cases = f"CASE {columns[pk]} {' '.join(['WHEN %s THEN %s'] * len(rows))} END"
    sets: list[str] = []
    where = " OR ".join(
        [f"({' AND '.join(f'{columns[name]} = %s' for name in (pk, *expected))})"] * len(rows)
    )
    values: list[Any] = []
    for at, name in enumerate(moved):
        first = rows[0][2][at]
        if all(new[at] == first for _key, _old, new in rows):
            sets.append(f"{columns[name]} = %s")
            values.append(adapt(first))
            continue
        sets.append(f"{columns[name]} = {cases}")
        for key, _old, new in rows:
            values += [key, adapt(new[at])]
    for key, old, _new in rows:
        values += [key, *map(adapt, old)]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {', '.join(sets)} WHERE {where}", values)  # noqa: S608
        return int(cursor.rowcount)


def set_row(
    model: type[models.Model],
    where: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    added: Mapping[str, Any] | None = None,
) -> int:
    """Give the rows that have the values `where` other `values`, and add to the `added` ones; returns how many there are."""
    added = added or {}
    table, columns = _names(model, (*where, *added, *values))
    sets = [f"{columns[name]} = {columns[name]} + %s" for name in added]
    sets += [f"{columns[name]} = %s" for name in values]
    found = " AND ".join(f"{columns[name]} = %s" for name in where)
    given = [adapt(value) for value in (*added.values(), *values.values(), *where.values())]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {', '.join(sets)} WHERE {found}", given)  # noqa: S608
        return int(cursor.rowcount)


def _names(model: type[models.Model], names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The table, and the columns of fields, in quotes."""
    quote = connection.ops.quote_name
    return quote(model._meta.db_table), {name: quote(_column(model, name)) for name in names}


@cache
def _column(model: type[models.Model], name: str) -> str:
    field: Any = model._meta.get_field(name)
    return str(field.column)
