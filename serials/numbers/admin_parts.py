"""The tab of a customer's page in the admin that shows their rental, with the serial numbers that were redeemed."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.tabs import Tab, link_to, show_table
from serials.numbers.models import redeemed_serial
from serials.rentals.admin_parts import facts, rental_of, spans
from serials.rentals.models import Redemption, Rental
from serials.rentals.wording import duration


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": a customer's rental."""
    if rental := rental_of(row):
        yield Tab("rental", _("Rental"), partial(_show, rental))


def _show(rental: Rental, request: HttpRequest) -> SafeString:
    return facts(rental) + spans(request, rental) + _redemptions(request, rental)


def _redemptions(request: HttpRequest, rental: Rental) -> SafeString:
    rows = Redemption.objects.visible_to(request.user).filter(rental=rental).select_related("by", "serial")

    def cells(found: list[Redemption]) -> Iterable[Iterable[Any]]:
        for redemption in found:
            serial = redeemed_serial(redemption)
            yield (
                redemption.at,
                redemption.get_kind_display(),
                link_to(redemption.serial, serial) if serial else "",
                duration(redemption.granted_seconds),
                redemption.old_ends_at,
                redemption.new_ends_at,
                redemption.by,
                redemption.note,
            )

    headings = [
        _("time"), _("kind"), _("serial number"), _("granted"), _("old end"), _("new end"), _("by"), _("note"),
    ]  # fmt: skip
    return show_table(request, _("What moved the end"), rows, headings, cells)
