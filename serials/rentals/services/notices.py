"""What customers are told about their rentals, by the notices of `accounts`."""

from typing import Any

from django.conf import settings
from django.urls import reverse

from accounts.services import notify
from serials.rentals.models import Redemption, Rental


def tell(about: Redemption | Rental, kind: str, *, key: int | None = None, **more: Any) -> None:
    """Tell a rental's customer, inside the caller's transaction; once for each redemption, or for each `key` of a rental."""
    rental = about if isinstance(about, Rental) else about.rental
    context: dict[str, Any] = {
        "ends_at": rental.ends_at and rental.ends_at.isoformat(),
        "url": settings.PUBLIC_URL + reverse("home"),
        **more,
    }
    if isinstance(about, Redemption):
        old = about.old_ends_at
        context |= {
            "old_ends_at": old and old.isoformat(),
            "ends_at": about.new_ends_at.isoformat(),
            "is_order": about.kind == Redemption.Kind.ORDER,
            "paused_at": rental.paused_at and rental.paused_at.isoformat(),
        }
    notify(user=rental.user, kind=kind, key=f"{kind}-{key or about.pk}", context=context)
