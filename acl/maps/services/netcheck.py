"""A device's own times to its customer's relays, as pasted."""

from datetime import datetime

from django.utils.translation import gettext_lazy as _

from acl.maps.models import MapRegion
from acl.maps.netcheck import NOT_CONNECTED, NotNetcheck, knew_no_map, parse_netcheck
from containers.services.client_latency import record_client_latency
from serials.rentals.models import Rental

# A person pastes it a few times, from the devices that matter.
NETCHECK_RATE = "30/10m"


class NoneOfYours(NotNetcheck):
    """The device knows none of the customer's relays."""

    code = "netcheck_none_of_yours"
    sentence = _(
        "The device reached relays, but none of yours: it does not know your map yet. Paste the map in the admin console, wait a minute and "
        "run the command again."
    )


def keep_netcheck(*, rental: Rental, text: str, now: datetime) -> int:
    """Keep what a device measured, of the relays to which the region IDs of the customer's map lead; how many.

    Raises `NotNetcheck`, and `NoneOfYours` among those.
    """
    times = parse_netcheck(text)
    regions = MapRegion.objects.filter(rental=rental, relay__isnull=False, region_id__in=times)
    found = {relay: times[region] for relay, region in regions.values_list("relay", "region_id")}
    if not found:
        raise NoneOfYours(NOT_CONNECTED if knew_no_map(text) else NoneOfYours.sentence)
    record_client_latency(times=found, now=now)
    return len(found)
