"""What the end of a customer's rights means for their relays: they stop, and where the account is closed they go."""

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import User
from containers.models import Relay


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": relays that still stand on a server, or may, while it does not answer."""
    for relay in Relay.objects.live().filter(rental__user=user).select_related("server"):
        yield _("The relay on %(server)s is not removed yet.") % {"server": relay.server}


def stops_with(user: User) -> Iterator[str]:
    """Answer to "stops_with": the relays that stop when this person's rights end, and come back with them."""
    count = Relay.objects.live().filter(rental__user=user, slot__isnull=False).count()
    if count:
        text = ngettext("%(count)d relay stops with it.", "%(count)d relays stop with it.", count)
        yield text % {"count": count}
