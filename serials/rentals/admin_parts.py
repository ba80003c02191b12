"""What rentals add to the page that a customer has in the admin, whose room knows no rentals."""

from collections.abc import Iterator
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.models import User
from serials.rentals.models import Rental


def links(row: Any) -> Iterator[Link]:
    """Answer to "row_links": a customer's rental."""
    if isinstance(row, User):
        for pk in Rental.objects.filter(user=row).values_list("pk", flat=True):
            yield Link(_("Rental"), reverse("admin:serials_rental_change", args=[pk]))
