"""What the operators' commands about people share."""

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import hash_address
from derpmgmt.lib.commands import CONSOLE


def find_person(email: str) -> User:
    """The account that has the address, else the one closed last of those that had it; raises `CommandError`."""
    people = User.objects.visible_to(CONSOLE)
    user: User | None = people.filter(email=email.strip().lower()).first()
    if user is None:
        user = people.filter(former_email_hash=hash_address(email)).order_by("-closing_at").first()
    if user is None:
        raise CommandError(_("There is no account with the address %(email)s.") % {"email": email})
    return user
