"""How often somebody may be wrong about a serial number, on pages and by the API together."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.http import HttpRequest

from derpmgmt.lib import limits
from derpmgmt.lib.address import client_network
from derpmgmt.lib.refusals import Refusal
from serials.numbers.services import AlreadyRedeemed

_GROUP = "serial-redeem"


@contextmanager
def counted(request: HttpRequest) -> Iterator[None]:
    """What is refused in here counts as a try, but for one's own serial number that was redeemed already, which is no guess.

    Raises `TooManyRequests` where there were too many tries before.
    """
    counts = [_limit(request)]
    limits.ask(request, group=_GROUP, counts=counts)
    try:
        yield
    except AlreadyRedeemed:
        raise
    except Refusal:
        limits.count(request, group=_GROUP, counts=counts)
        raise


def _limit(request: HttpRequest) -> limits.Limit:
    """What wrong codes are counted by: the account, so that nobody else in its network shuts it out; for visitors the network."""
    if request.user.is_authenticated:
        return limits.Limit(f"account:{request.user.pk}", settings.REDEEM_RATE)
    return limits.Limit(f"address:{client_network(request)}", settings.REDEEM_RATE)
