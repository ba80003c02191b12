"""How the cells of tables look."""

from typing import Any

from django.utils.text import capfirst

EMPTY = "–"


def labelled(label: Any) -> dict[str, Any]:
    """Attributes of a column's cells: on a phone a row is a card, each cell names itself, and empty ones are left out."""
    return {
        "td": {
            "data-label": capfirst(label),
            "class": lambda value: "d-none d-sm-table-cell" if value in {None, "", EMPTY} else "",
        }
    }
