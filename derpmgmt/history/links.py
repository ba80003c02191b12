"""The way to the history from a customer's page in the admin."""

from collections.abc import Iterator
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.models import User


def links(row: Any) -> Iterator[Link]:
    """Answer to "row_links": a customer's history."""
    if isinstance(row, User):
        yield Link(_("Customer's history"), reverse("customer-history", args=[row.pk]))
