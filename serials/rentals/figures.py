"""What is counted of rentals."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count
from django.urls import reverse
from django.utils.translation import gettext as _

from derpmgmt.lib.figures import Figure, midnight
from derpmgmt.lib.metrics import Metric, single
from serials.rentals.models import Redemption, Rental


def figures(now: datetime) -> Iterator[Figure]:
    """Answer to "figures": what was redeemed today, and how many rentals' time runs."""
    redeemed = Redemption.objects.filter(kind=Redemption.Kind.SERIAL, at__gte=midnight(now)).count()
    yield Figure(_("redeemed today"), str(redeemed), reverse("admin:serials_redemption_changelist"))
    active = Rental.objects.entitled(now).count()
    yield Figure(_("active rentals"), str(active), reverse("admin:serials_rental_changelist"))


def metrics(now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": rentals by state, and what moved their ends."""
    states = Rental.objects.values_list("status").annotate(Count("pk")).order_by("status")
    yield Metric("rentals", "Rentals by their state.", ("status",), [((status,), n) for status, n in states])
    active = Rental.objects.entitled(now).count()
    yield single("rentals_entitled", "Rentals whose time runs.", active)
    kinds = Redemption.objects.values_list("kind").annotate(Count("pk")).order_by("kind")
    yield Metric(
        "redemptions",
        "What moved rentals' ends.",
        ("kind",),
        [((kind,), n) for kind, n in kinds],
        is_counter=True,
    )
