"""Template tags of the admin's own templates."""

from collections.abc import Iterable, Iterator
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst

register = template.Library()


@register.filter
def headed(cells: Iterable[SafeString], headers: list[dict[str, Any]]) -> Iterator[SafeString]:
    """The cells of a list's row, as Django writes them, each with its column's heading, which is shown where the row is a card."""
    for number, cell in enumerate(cells):
        text = str(headers[number]["text"]) if number < len(headers) else ""
        label = "" if "<input" in text else format_html(' data-label="{}"', capfirst(text))
        tag, rest = cell[:3], cell[3:]
        yield mark_safe(f"{tag}{label}{rest}") if tag in {"<td", "<th"} else cell  # noqa: S308
