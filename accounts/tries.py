"""How often somebody may try at an account, so that nobody guesses their way in and nobody shuts anybody else out.

Tries from a browser in which the account has signed in before count by that browser alone. All others count by account and network
together, by network, and by account with a bound that takes many networks to reach; reaching it shuts out strangers only.
"""

from dataclasses import dataclass

from django.http import HttpRequest

from accounts import browsers
from accounts.models import User
from derpmgmt.lib import limits
from derpmgmt.lib.address import client_network, wide_network
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.limits import Limit


@dataclass(frozen=True)
class Kind:
    """What is tried, and its rates ("10/10m"): for a known browser, or for others in the order of the text above."""

    group: str
    by_browser: str
    by_account_and_network: str
    by_network: str
    by_wide_network: str
    by_account: str


# Failures only.
PASSWORD = Kind("password", "10/10m", "10/10m", "30/10m", "200/10m", "100/h")
# Whoever tries at a second factor has the password already.
SECOND_FACTOR = Kind("second-factor", "10/10m", "10/10m", "30/10m", "200/10m", "10/10m")
# Each sends a mail, or would.
RESET = Kind("reset", "5/h", "5/h", "20/h", "60/h", "30/h")

# A sign-up sends a mail to whatever address is typed: by network, and by address and network.
_SIGN_UP = ("account_signup", "20/h", "5/h")
# Tries at one mailed code, which is good for a quarter of an hour.
_MAILED_CODE = "3/h"


def _limits(request: HttpRequest, kind: Kind, email: str, user_pk: int | None) -> list[Limit]:
    account = f"account:{user_pk or email}"
    if browser := _browser(request, user_pk):
        return [Limit(f"{account}:browser:{browser}", kind.by_browser)]
    wide = wide_network(request)
    return [
        Limit(f"{account}:network:{wide}", kind.by_account_and_network),
        Limit(f"network:{client_network(request)}", kind.by_network),
        Limit(f"network:{wide}", kind.by_wide_network),
        Limit(account, kind.by_account),
    ]


def _browser(request: HttpRequest, user_pk: int | None) -> str:
    """The browser's name where the account has signed in here before, or is signed in now."""
    if user_pk is None:
        return ""
    if request.user.is_authenticated and request.user.pk == user_pk:
        return browsers.name_of(request, user_pk) or _own_key(request)
    return browsers.name_of(request, user_pk)


def _own_key(request: HttpRequest) -> str:
    """With what somebody is signed in who asks: a token of the API, or a session."""
    token = getattr(request, "token", None)
    return f"token:{token.pk}" if token else f"session:{request.session.session_key}"


def _find(email: str) -> tuple[str, int | None]:
    email = email.strip().lower()[:254]
    return email, User.objects.filter(email=email).values_list("pk", flat=True).first()


def is_known(request: HttpRequest, email: str) -> bool:
    """Whether the account with this address has signed in with this browser before."""
    return bool(_browser(request, _find(email)[1]))


def ask(request: HttpRequest, kind: Kind, *, email: str = "", user: User | None = None) -> None:
    """Raises `limits.TooManyRequests` where no further try is allowed; counts nothing."""
    limits.ask(request, group=kind.group, counts=_of(request, kind, email, user))


def count(request: HttpRequest, kind: Kind, *, email: str = "", user: User | None = None) -> None:
    """Count one try at the account with that address, or of that person."""
    limits.count(request, group=kind.group, counts=_of(request, kind, email, user))


def _of(request: HttpRequest, kind: Kind, email: str, user: User | None) -> list[Limit]:
    address, pk = ("", user.pk) if user else _find(email)
    return _limits(request, kind, address, pk)


def count_sign_up(request: HttpRequest, email: str) -> None:
    """Count one sign-up with that address, which may be empty or none. Raises `limits.TooManyRequests`."""
    group, by_network, by_address = _SIGN_UP
    counts = [Limit(f"network:{client_network(request)}", by_network)]
    if email := email.strip().lower():
        counts.append(Limit(f"address:{email}:network:{wide_network(request)}", by_address))
    for limit in counts:
        limits.consume(request, group=group, key=limit.key, rate=limit.rate)


def take_mailed_code(request: HttpRequest, *, code: str, email: str) -> None:
    """Count one try at this very code, before it is compared: however many come at once, three are looked at.

    An address gets five mails in ten minutes at most, so ninety codes of a million are tried in an hour: one chance in eleven
    thousand, and what it opens is an account with somebody else's address. Raises `limits.TooManyRequests`.
    """
    key = keyed_hash("mailed code", f"{email} {code}")
    limits.consume(request, group="mailed-code", key=key, rate=_MAILED_CODE)
