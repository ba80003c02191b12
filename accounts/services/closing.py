"""Closing an account: at once for the person, step by step for what stands on servers.

`close_account` is one transaction: the person is signed out and forgotten, and the account counts as closing. What the rooms
above have of it (rental, relays, maps) is taken down by the jobs that `account_closing` rings for; `finish_closing` asks whether
anything is left ("closing_left") and records the end. A server or a mail server that is away holds up only that last step.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from accounts import wordlist
from accounts.access.models import ApiToken, KeptAnswer
from accounts.models import Channel, Notice, OperationLog, User
from accounts.services.activity import log_operation
from accounts.services.notices import drop_notices, notify
from accounts.services.people import NotAllowed, ask_right_over, end_sessions
from accounts.sweeps import sweep
from accounts.works import Work, declare
from derpmgmt.lib import queue
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.refusals import Refusal

FAREWELL = "account_closed"
# The reason of those who close their own.
OWN_WISH = gettext_noop("asked for by the customer")
# What is left of a person's IP addresses: enough to tell a region and an abuse's source, too little to tell a household.
_KEPT_BITS = {4: 24, 6: 48}
# What belongs to a person and goes with them; sessions go by `end_sessions`.
_BELONGINGS: tuple[type[Any], ...] = (EmailAddress, Authenticator, Channel, ApiToken, KeptAnswer)
_UNDER_WAY = (Notice.State.WAITING, Notice.State.SENDING)


class ClosingRefused(Refusal):
    """The account cannot be closed yet; `reasons` are sentences, lazily translated."""

    code = "closing_refused"
    sentence = gettext_lazy("The account cannot be closed yet:")

    def __init__(self, reasons: list[Any]) -> None:
        super().__init__()
        self.reasons = reasons

    def __str__(self) -> str:
        return " ".join(str(reason) for reason in self.reasons)

    def details(self) -> dict[str, Any]:
        """The reasons one by one."""
        return {"reasons": [str(reason) for reason in self.reasons]}


def hash_address(email: str) -> str:
    """By what a closed account is found when somebody names the e-mail address it had.

    However it is written: in capitals, with spaces or invisible characters that a copy brought along, in full-width characters,
    with letters and accents together or apart.
    """
    text = unicodedata.normalize("NFKC", email).replace("。", ".")
    seen = "".join(char for char in text if unicodedata.category(char)[0] not in "CZ")
    return keyed_hash("former e-mail", unicodedata.normalize("NFKC", seen.casefold()))


def search_people(rows: QuerySet[User], text: str) -> QuerySet[User]:
    """Those in whose address or user name all words of `text` are; a closed account by its number, or by the whole address it had."""
    found = Q()
    for word in text.split():
        found &= Q(email__icontains=word) | Q(username__icontains=word)
    number = text.strip().removeprefix("#")
    if number.isdecimal() and len(number) < 19:
        found |= Q(pk=int(number), closing_at__isnull=False)
    if "@" in unicodedata.normalize("NFKC", text):
        found |= Q(former_email_hash=hash_address(text))
    return rows.filter(found)


def shorten_ip(ip: str | None) -> str | None:
    """The network of an IP address, as it is kept of a person who is gone: `203.0.113.0` for `203.0.113.7`."""
    if not ip:
        return None
    address = ipaddress.ip_address(ip)
    return str(ipaddress.ip_network((address, _KEPT_BITS[address.version]), strict=False).network_address)


def closing_reasons(user: User) -> list[Any]:
    """Why the account cannot be closed now, as sentences; empty when it can."""
    return queue.ask("closing_reasons", user)


def closing_losses(user: User) -> list[Any]:
    """What the person would lose, as sentences."""
    return queue.ask("closing_losses", user)


def closing_left(user: User) -> list[Any]:
    """What of an account that is being closed is still there, as sentences; a mail under way holds an address."""
    left = queue.ask("closing_left", user)
    if Notice.objects.filter(user=user, state__in=_UNDER_WAY).exists():
        left.append(_("The last mail has not left yet."))
    if _is_known(user):
        left.append(_("Personal data that came in during the closing is not deleted yet."))
    return left


@transaction.atomic
def close_account(*, user: User, by: User | None, reason: str = "", ip: str | None = None) -> bool:
    """Close the account for good; False when that was asked for before, so a doubled click does nothing.

    The person themselves may, and an admin over them; an operator's account is closed by a super admin other than themselves, and the
    last super admin's by nobody. `by` None is the system or the console. `reason` is an English sentence marked for translation, or what an admin wrote. Raises
    `NotAllowed`, and `ClosingRefused` while "closing_reasons" has any. Makes the farewell mail. Announces `account_closing`.
    """
    reason = one_line(reason)
    if by is None or by.pk != user.pk:
        ask_right_over(user, by)
    elif user.is_staff:
        raise NotAllowed(_("An operator's account is closed by another super admin."))
    user = User.objects.select_for_update().get(pk=user.pk)
    if user.closing_at or user.closed_at:
        return False
    if (
        user.is_superuser
        and not User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk).exists()
    ):
        raise NotAllowed(_("This is the last super admin; make another one first."))
    if reasons := closing_reasons(user):
        raise ClosingRefused(reasons)
    drop_notices(user=user)
    # It carries the address to which it goes, and loses it when it has left.
    notify(
        user=user,
        kind=FAREWELL,
        key=f"{FAREWELL}-{user.pk}",
        # Without a button: they cannot sign in any more. Who never had a rental is not told of relays.
        context={"account": user.pk, "had_rental": bool(queue.ask("closing_left", user))},
        is_mail_only=True,
    )
    end_sessions(user)
    _clean_records(user)
    _forget(user, reason)
    is_own = by is not None and by.pk == user.pk
    log_operation(
        by=user if is_own else by,
        action="user.closing",
        target=user,
        subject=user,
        ip=shorten_ip(ip) if is_own else ip,
        reason=reason,
    )
    queue.announce("account_closing", user.pk)
    return True


def _name_of_gone(user: User) -> str:
    # Neither a user name nor an address that somebody could sign up with, so it is always free.
    return f"#{user.pk}"


def _forget(user: User, reason: str) -> None:
    user.former_email_hash = hash_address(user.email)
    user.email = user.username = _name_of_gone(user)
    user.first_name = user.last_name = ""
    user.set_unusable_password()
    user.closing_at = timezone.now()
    user.closing_reason = reason[:200]
    user.save()
    _drop_belongings(user)


def _drop_belongings(user: User) -> None:
    for model in _BELONGINGS:
        model.objects.filter(user=user).delete()


def _is_known(user: User) -> bool:
    """Whether a closing account has personal data, because a request that was under way wrote some behind the closing."""
    name = _name_of_gone(user)
    named = User.objects.filter(pk=user.pk).exclude(username=name, email=name)
    rows = [model.objects.filter(user=user) for model in (*_BELONGINGS, UserSession)]
    return any(found.exists() for found in (named, *rows))


@transaction.atomic
def _forget_again(user: User) -> User:
    """Take away what `_is_known` finds; returns what is left of the person."""
    user = User.objects.select_for_update().get(pk=user.pk)
    end_sessions(user)
    _drop_belongings(user)
    user.username = user.email = _name_of_gone(user)
    user.save(update_fields=["username", "email"])
    return user


def _clean_records(user: User) -> None:
    """Take the person's addresses, names and IP addresses out of what is written down; who did what and when stays."""
    own = Q(subject=user) | Q(actor=user)
    addresses = {user.email, *EmailAddress.objects.filter(user=user).values_list("email", flat=True)}
    for detail in OperationLog.objects.filter(own, action__startswith="email.").values_list(
        "detail", flat=True
    ):
        addresses |= {value for value in detail.values() if isinstance(value, str) and "@" in value}
    addresses = {address.lower() for address in addresses}
    words = "|".join(re.escape(address) for address in addresses)
    pattern = re.compile(rf"(?<![\w.+-])(?:{words})(?![\w-]|\.\w)", re.IGNORECASE)
    changed = []
    # Tries to sign in before there was an account have no subject.
    for entry in OperationLog.objects.filter(own | Q(target__in=addresses)).iterator():
        before = entry.target, entry.detail, entry.ip
        entry.target = pattern.sub(_name_of_gone(user), entry.target)
        is_about = entry.subject_id == user.pk
        entry.detail = _cleaned(
            entry.detail, pattern, user.username if is_about else None, _name_of_gone(user)
        )
        if entry.actor_id in {None, user.pk}:
            entry.ip = shorten_ip(entry.ip)
        if before != (entry.target, entry.detail, entry.ip):
            changed.append(entry)
    OperationLog.objects.bulk_update(changed, ["target", "detail", "ip"], batch_size=200)
    for address in addresses:
        for line in LogEntry.objects.filter(object_repr__icontains=address):
            line.object_repr = pattern.sub(_name_of_gone(user), line.object_repr)
            line.save(update_fields=["object_repr"])
    notices = Notice.objects.filter(user=user)
    notices.exclude(state__in=_UNDER_WAY).update(address="", context={})
    for notice in notices.exclude(error=""):  # a mail server's words may repeat the address
        notice.error = pattern.sub(_name_of_gone(user), notice.error)
        notice.save(update_fields=["error"])


def _cleaned(value: Any, pattern: re.Pattern[str], username: str | None, name: str) -> Any:
    """A log entry's details without the addresses and, where `username` is given, without any user name."""
    if isinstance(value, dict):
        return {
            key: name if key == "username" and username else _cleaned(part, pattern, username, name)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_cleaned(part, pattern, username, name) for part in value]
    if isinstance(value, str):
        return name if value == username else pattern.sub(name, value)
    return value


def finish_closing(*, user_pk: int, now: datetime) -> list[Any]:
    """Record the account as closed when nothing of it is left; returns what is left. May run at any time and twice."""
    user = User.objects.closing().filter(pk=user_pk).first()
    if user is None:
        return []
    if _is_known(user):
        user = _forget_again(user)
    if left := closing_left(user):
        return left
    with transaction.atomic():
        if User.objects.closing().filter(pk=user_pk).update(closed_at=now):
            # What was sent when stays, but no word of it: mails about an account's safety name person and place.
            Notice.objects.filter(user=user).update(address="", context={})
            Notice.objects.filter(user=user, kind__in=wordlist.farewells()).update(error="")
            log_operation(by=None, action="user.closed", target=user, subject=user)
    return []


def sweep_closing(*, now: datetime) -> None:
    """Record the end where nothing is left any more, and ring again for the others: a bell may have been lost."""
    sweep(CLOSING, now=now)


def _end(pks: Sequence[int], now: datetime) -> int:
    for user_pk in pks:
        if finish_closing(user_pk=user_pk, now=now):
            queue.announce("account_closing", user_pk)
    return len(pks)


CLOSING = declare(
    Work(
        name="the end of closing accounts",
        title=gettext_lazy("Ending the closing of accounts"),
        model=User,
        whose="email",
        due=lambda _now: User.objects.closing().order_by("pk"),
        do=_end,
    )
)
