"""The history on a customer's page in the admin."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.requests import staff_of
from accounts.tabs import Tab, same_tab
from derpmgmt.history.views import read_history
from serials.rentals.admin_parts import rental_of

NAME = "history"


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": the history of who has a rental, or had one; all that others have are notices."""
    if rental := rental_of(row):
        yield Tab(NAME, _("History"), partial(_show, rental.user))


def _show(customer: User, request: HttpRequest) -> str:
    base = f"?{urlencode({**same_tab(request), 'tab': NAME})}"
    context = read_history(request, staff_of(request), customer)
    return render_to_string("admin/history.html", {**context, "base": base}, request)
