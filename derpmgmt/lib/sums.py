"""Adding to sums in the database: one statement for many rows, each made where there is none yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection, models


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
    fields: dict[str, Any] = {name: model._meta.get_field(name) for name in (*key, *added, *replaced)}
    quote = connection.ops.quote_name
    columns = {name: quote(field.column) for name, field in fields.items()}
    table = quote(model._meta.db_table)
    is_mysql = connection.vendor == "mysql"

    def given(name: str) -> str:
        return f"VALUES({columns[name]})" if is_mysql else f"excluded.{columns[name]}"

    sets = [f"{columns[name]} = {table}.{columns[name]} + {given(name)}" for name in added]
    sets += [f"{columns[name]} = {given(name)}" for name in replaced]
    keys = ", ".join(columns[name] for name in key)
    clash = "ON DUPLICATE KEY UPDATE" if is_mysql else f"ON CONFLICT ({keys}) DO UPDATE SET"
    places = f"({', '.join(['%s'] * len(columns))})"
    names = ", ".join(columns.values())
    # Names of our own tables, nobody's words.
    sql = f"INSERT INTO {table} ({names}) VALUES {', '.join([places] * len(rows))} {clash} {', '.join(sets)}"  # noqa: S608
    values = [field.get_db_prep_save(row[name], connection) for row in rows for name, field in fields.items()]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
