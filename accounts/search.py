"""People, found by what they are called."""

from collections.abc import Iterator

from django.db.models import Q
from django.urls import reverse

from accounts.models import User
from accounts.services.closing import hash_address
from derpmgmt.lib.finding import MOST_FOUND, Found, begins_with

_LONGEST_NUMBER = 18


def search(text: str, user: User) -> Iterator[Found]:
    """Answer to "search": accounts by the beginning of the address or user name, by number, and closed ones by the whole address."""
    word = text.lower()
    wanted = begins_with("email", word) | begins_with("username", word)
    number = text.removeprefix("#")
    if number.isascii() and number.isdecimal() and len(number) <= _LONGEST_NUMBER:
        wanted |= Q(pk=int(number))
    if "@" in text:
        wanted |= Q(former_email_hash=hash_address(text))
    # Not in an order of the database's: it would read the whole table in that order until it has found enough.
    found = User.objects.visible_to(user).filter(wanted).order_by()[:MOST_FOUND]
    for person in sorted(found, key=lambda person: person.email):
        about = f"{person.username} · {person.get_role_display()} · {person.state.label}"
        url = reverse("admin:accounts_user_change", args=[person.pk])
        yield Found(str(User._meta.verbose_name_plural), str(person), about, url)
