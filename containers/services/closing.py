"""What closing an account means for its relays: they go like those of every rental that has ended."""

from collections.abc import Iterator

from django.utils.translation import gettext as _

from accounts.models import User
from containers.models import Relay


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": relays that still stand on a server, or may, while it does not answer."""
    for relay in Relay.objects.live().filter(rental__user=user).select_related("server"):
        yield _("The relay on %(server)s is not removed yet.") % {"server": relay.server}
