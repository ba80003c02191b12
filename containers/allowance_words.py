"""What counts as a limit for a customer, or a relay, in words for operators: each with where it comes from."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.allowances import Allowance, Figure, Source
from containers.models import Relay
from containers.services.allowances import allowance_of
from serials.rentals.limits import AtQuota
from serials.rentals.models import Rental
from serials.rentals.services import current_span
from serials.rentals.wording import rate, traffic

_SOURCES = {
    Source.RELAY: gettext_lazy("said for this relay"),
    Source.CUSTOMER: gettext_lazy("said for the customer"),
    Source.SOLD: gettext_lazy("as sold"),
}


# What programs call a limit, and the field of a row in which it is said.
CAPS = {
    "quota_bytes": "cap_both_bytes",
    "upload_quota_bytes": "cap_up_bytes",
    "download_quota_bytes": "cap_down_bytes",
    "rate_bytes_per_second": "cap_rate",
    "device_limit": "cap_devices",
    "at_quota": "cap_at_quota",
}


def limits_as_values(allowance: Allowance) -> dict[str, dict[str, Any]]:
    """What counts, for programs: by the names of `CAPS` each `value` (None: no limit) and its `source`."""
    figures = {
        "quota_bytes": allowance.both,
        "upload_quota_bytes": allowance.up,
        "download_quota_bytes": allowance.down,
        "rate_bytes_per_second": allowance.rate,
        "device_limit": allowance.devices,
    }
    return {
        **{name: {"value": figure.value, "source": figure.source} for name, figure in figures.items()},
        "at_quota": {"value": allowance.at_end, "source": allowance.at_end_source},
    }


def limits_now(rental: Rental, relay: Relay | None = None) -> Iterator[str]:
    """Answer to "limits_now": what counts for a customer, or for a relay of theirs, as one sentence."""
    shown = limits_in_words(rental, timezone.now(), relay)
    limits = _("; ").join(f"{name}: {value}" for name, value in shown)
    yield _("What counts now: %(limits)s.") % {"limits": limits}


def limits_in_words(rental: Rental, now: datetime, relay: Relay | None = None) -> list[tuple[str, str]]:
    """Name and value of each limit that counts now, or may; one query."""
    allowance = allowance_of(rental, current_span(rental, now), relay)

    def said(figure: Figure, text: str) -> str:
        return f"{text} · {_SOURCES[figure.source]}"

    shown = []
    for name, figure in (
        (_("traffic a month"), allowance.both),
        (_("of it up"), allowance.up),
        (_("of it down"), allowance.down),
    ):
        # Up and down have a limit of their own only where one was sold or said.
        if figure.value is not None or figure.source is not Source.SOLD or figure is allowance.both:
            value = _("unlimited") if figure.value is None else traffic(figure.value)
            shown.append((name, said(figure, value)))
    if relay is None and rental.added_bytes:
        shown.append((_("added this month"), traffic(rental.added_bytes)))
    value = _("none") if allowance.rate.value is None else rate(allowance.rate.value)
    shown.append((_("rate limit"), said(allowance.rate, value)))
    if relay is None:
        shown.append((_("devices"), said(allowance.devices, str(allowance.devices.value or 0))))
    at_end = f"{AtQuota(allowance.at_end).label} · {_SOURCES[allowance.at_end_source]}"
    return [*shown, (_("at the allowance"), at_end)]
