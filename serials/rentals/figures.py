"""What is counted of rentals."""

from collections.abc import Iterator
from datetime import datetime

from django.urls import reverse
from django.utils.translation import gettext as _

from derpmgmt.lib.figures import Figure, midnight
from serials.rentals.models import Redemption, Rental


def figures(now: datetime) -> Iterator[Figure]:
    """Answer to "figures": what was redeemed today, and how many rentals' time runs."""
    redeemed = Redemption.objects.filter(kind=Redemption.Kind.SERIAL, at__gte=midnight(now)).count()
    yield Figure(_("redeemed today"), str(redeemed), reverse("admin:serials_redemption_changelist"))
    active = Rental.objects.entitled(now).count()
    yield Figure(_("active rentals"), str(active), reverse("admin:serials_rental_changelist"))
