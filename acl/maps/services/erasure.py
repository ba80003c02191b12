"""What closing an account means for its maps."""

from collections.abc import Iterator

from django.db import transaction
from django.db.models.functions import Length
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from accounts.models import User
from acl.maps import derpmap
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion
from acl.maps.services.regions import may_answer
from acl.maps.services.versions import active_config, withdraw
from derpmgmt.lib import queue
from serials.rentals.models import Rental

CLOSED = gettext_noop("the account was closed")


@transaction.atomic
def destroy_maps(*, rental: Rental) -> bool:
    """Empty every version of a closed rental's map and forget who fetched it from where; the history of versions stays.

    False while the rental is not closed, or its regions cannot be let go yet. Its live URL goes on to answer that there are no
    regions. Harmless when doubled.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    if rental.closed_at is None:
        return False
    withdraw(rental, active_config(rental), CLOSED)
    now = timezone.now()
    regions = MapRegion.objects.filter(rental=rental).select_related("relay")
    if any(row.relay and may_answer(row.relay, now) for row in regions):
        return False
    AclConfig.objects.filter(rental=rental).update(derp_map=derpmap.EMPTY_MAP)
    MapRegion.objects.filter(rental=rental).delete()
    AclEvent.objects.filter(rental=rental).update(ip=None, place="", browser="")
    LiveUrl.objects.filter(rental=rental).update(secret="", last_ip=None, last_browser="")
    queue.announce("map_changed", rental.pk)
    return True


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": the maps, and what tells who fetched them from where, while there is any."""
    maps = AclConfig.objects.filter(rental__user=user).values_list("derp_map", flat=True)
    events = AclEvent.objects.filter(rental__user=user).exclude(ip=None, place="", browser="")
    urls = LiveUrl.objects.filter(rental__user=user).annotate(secret_length=Length("secret"))
    if (
        any(derp_map["Regions"] for derp_map in maps)
        or events.exists()
        or urls.exclude(secret_length=0, last_ip=None, last_browser="").exists()
        or MapRegion.objects.filter(rental__user=user).exists()
    ):
        yield gettext("The maps are not destroyed yet.")
