"""What people are told: a row for each message and channel, and how it gets out.

Never lost, and a double as unlikely as can be: the row is written in the transaction of what it is about, and a worker takes
it with a conditional UPDATE. Until `handed_at` is written, right before the message leaves, a worker's death costs nothing: the
sweep gives the notice back. After that nobody can know whether it arrived. Such a notice is not sent again by itself but
shown as failed, with a button: a reminder that is missing once is better than one that comes twice, and the span is that of
one SMTP hand-over. Tries after a refusal carry the same Message-ID.

What is no longer the case is taken back in the transaction that makes it so. A notice whose hand-over has begun cannot be
stopped any more, but is marked (`OUTDATED` as its error): it leaves now or never.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import DatabaseError, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.dateparse import parse_datetime
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts import push, sms, wordlist
from accounts.brand import current_brand, sender
from accounts.models import Channel, Notice, User
from accounts.services.activity import log_operation
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import LOST_AFTER, Heartbeat, worker_name
from derpmgmt.lib.mail import LIMIT, MailFailed, MailLimited, deliver
from derpmgmt.lib.refusals import Refusal

log = logging.getLogger(__name__)

# After a refusal that may pass: the n-th try comes so long after the one before. Then a person has to look at it.
BACKOFF = [timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360, 720, 1440)]
# One sweep rings for so many.
AT_ONCE = 200

IN_DOUBT = gettext_noop("It was interrupted while it was handed over; it may have arrived.")
BARRED = gettext_noop("The account is banned or closed.")
CHANNEL_GONE = gettext_noop("The channel was removed.")
INTERNAL = gettext_noop("An internal error; the panel's log says more.")
OUTDATED = gettext_noop("It was no longer the case.")


class NoticeRefused(Refusal):
    """A notice cannot be sent again."""

    code = "notice_refused"


class _TakenAway(Exception):
    """The sweep held this worker for dead; the notice is no longer its own."""


@dataclass(frozen=True)
class Message:
    """What one person is told by e-mail and by their own channels: the arguments of `notify`."""

    user: User
    kind: str
    key: str
    context: dict[str, Any]
    fits_until: datetime | None = None


def notify_all(messages: Sequence[Message]) -> int:
    """Tell many people something at once, as `notify` does for each; in the transaction of what it is about, people locked.

    Returns how many notices are new. Announces `notice_made`.
    """
    channels: dict[int, list[Channel]] = defaultdict(list)
    people = {message.user.pk for message in messages}
    for channel in Channel.objects.filter(user__in=people, confirmed_at__isnull=False):
        channels[channel.user_id].append(channel)
    keys = [message.key for message in messages]
    had = set(Notice.objects.filter(user__in=people, key__in=keys).values_list("user", "key"))
    count = 0
    new: list[Notice] = []
    for message in messages:
        user = message.user
        if (user.pk, message.key) in had:
            count += len(
                notify(
                    user=user,
                    kind=message.kind,
                    key=message.key,
                    context=message.context,
                    fits_until=message.fits_until,
                )
            )
            continue
        context = _until(message.context, message.fits_until)
        for by, target, address in [
            (Notice.By.EMAIL, "", user.email),
            *_by_channel(channels[user.pk], message.kind),
        ]:
            notice = Notice(
                user=user, key=message.key, channel=by, target=target, kind=message.kind, address=address
            )
            notice.context, notice.language = context, user.language
            new.append(notice)
    Notice.objects.bulk_create(new)
    # Read back: not every database tells the keys of rows that were written together.
    made = Notice.objects.filter(
        user__in={notice.user_id for notice in new}, key__in={notice.key for notice in new}
    )
    queue.announce_all("notice_made", list(made.values_list("pk", flat=True)))
    return count + len(new)


def _by_channel(channels: Iterable[Channel], kind: str) -> list[tuple[str, str, str]]:
    """By which of a person's channels a notice of this kind goes: how, which channel, no address."""
    return [
        (channel.kind, str(channel.pk), "")
        for channel in channels
        if channel.kind != Channel.Kind.SMS or wordlist.NOTICES[kind].by_sms
    ]


def _until(context: dict[str, Any], fits_until: datetime | None) -> dict[str, Any]:
    return context if fits_until is None else context | {"fits_until": fits_until.isoformat()}


def notify(
    *,
    user: User,
    kind: str,
    key: str,
    context: dict[str, Any],
    address: str = "",
    is_mail_only: bool = False,
    fits_until: datetime | None = None,
) -> list[Notice]:
    """Tell `user` by e-mail and by their own channels; call it in the transaction of what it is about.

    The texts are `templates/notices/<kind>_subject.txt`, `_message.txt`, `_message.html`, rendered when the notice is sent, in
    their language, with `context` (JSON; dates under keys that end in `_at` or `_until` come back as dates) and `user`.
    `context["url"]` is the button's address. A `key` that the person has had already makes nothing; what was dropped under it
    waits again, unless it may have arrived. `address` where it is not their present e-mail address. What has not left when it `fits_until` is
    dropped: it was no longer true, and what is true by then is told by whoever told this. Returns the notices that are new.
    Announces `notice_made`.
    """
    wanted: list[tuple[str, str, str]] = [(Notice.By.EMAIL, "", address or user.email)]
    if not is_mail_only:
        wanted += _by_channel(Channel.objects.filter(user=user, confirmed_at__isnull=False), kind)
    context = _until(context, fits_until)
    made = []
    for by, target, to in wanted:
        told = {"kind": kind, "address": to, "context": context, "language": user.language}
        notice, is_new = Notice.objects.get_or_create(
            user=user, key=key, channel=by, target=target, defaults=told
        )
        if is_new or _take_up_again(notice, told):
            made.append(notice)
            queue.announce("notice_made", notice.pk)
    return made


def _take_up_again(notice: Notice, told: dict[str, Any]) -> bool:
    now = timezone.now()
    dropped = Notice.objects.filter(pk=notice.pk, state=Notice.State.DROPPED, handed_at=None)
    told = told | {"state": Notice.State.WAITING, "error": "", "tries": 0}
    return bool(dropped.update(**told, send_after=now, created_at=now))


def drop_notices(*, user: User, kinds: frozenset[str] | None = None) -> int:
    """Take back what has not left to `user`: notices of `kinds` (None: all but farewells); call it inside a transaction.

    Those that failed are not sent again either, and one that is being handed over at this moment gets no further try. Returns
    how many would still have left by themselves.
    """
    chosen = ~Q(kind__in=wordlist.farewells()) if kinds is None else Q(kind__in=kinds)
    return _take_back(Notice.objects.filter(chosen, user=user))


def take_back_notices(*, key: str) -> set[int]:
    """Take back what has not left of the notices of `key`, as `drop_notices` does; call it inside a transaction.

    Returns the people (pks) to whom one of them went out, or may have.
    """
    _take_back(Notice.objects.filter(key=key))
    rows = Notice.objects.filter(key=key).exclude(state=Notice.State.DROPPED)
    return set(rows.values_list("user_id", flat=True))


def _take_back(rows: QuerySet[Notice]) -> int:
    state = Notice.State
    taken_back = rows.filter(state__in=(state.WAITING, state.SENDING), handed_at=None).update(
        state=state.DROPPED, error=OUTDATED, address=""
    )
    # One statement for all: between two of them a worker could move a row from what is still to come to what is done.
    is_leaving = Q(state=state.SENDING, handed_at__isnull=False)
    rows.filter(state__in=(state.WAITING, state.SENDING, state.FAILED)).update(
        state=Case(When(is_leaving, then=F("state")), default=Value(state.DROPPED)),
        error=OUTDATED,
        address="",
    )
    return taken_back


@transaction.atomic
def send_again(*, notice: Notice, by: User) -> None:
    """Send a notice that failed once more.

    Raises `NoticeRefused` when it did not fail, is no longer the case or has no address left.
    """
    notice = Notice.objects.select_for_update().select_related("user").get(pk=notice.pk)
    if why := why_not_again(notice):
        raise NoticeRefused(why)
    address = _address_of(notice)
    Notice.objects.filter(pk=notice.pk).update(
        state=Notice.State.WAITING, send_after=timezone.now(), tries=0, error="", handed_at=None, address=address
    )  # fmt: skip
    log_operation(
        by=by, action="notice.sent_again", target=notice.kind, subject=notice.user, notice=notice.pk
    )
    queue.announce("notice_made", notice.pk)


def why_not_again(notice: Notice) -> str | Promise:
    """Why a notice cannot be sent again; "" where it can."""
    was_taken_back = notice.state == Notice.State.DROPPED and notice.error == OUTDATED
    if was_taken_back or (notice.state == Notice.State.FAILED and _is_outdated(notice, timezone.now())):
        return _("What this notice says is no longer the case; it is not sent any more.")
    if notice.state != Notice.State.FAILED:
        return _("Only a notice that failed can be sent again.")
    if notice.channel == Notice.By.EMAIL and not _address_of(notice):
        return _("The account is closed and its address is no longer known.")
    return ""


def _address_of(notice: Notice) -> str:
    user = notice.user
    return notice.address or ("" if user.closing_at or user.closed_at else user.email)


def _why_not(notice: Notice, now: datetime) -> str:
    """Why the notice is not for sending any more; "" where it is."""
    if not notice.user.is_active and notice.kind not in wordlist.farewells():
        return BARRED
    return OUTDATED if _is_outdated(notice, now) else ""


def _is_outdated(notice: Notice, now: datetime) -> bool:
    fits_until = parse_datetime(notice.context.get("fits_until", ""))
    return fits_until is not None and fits_until <= now


@dataclass(frozen=True)
class Words:
    """A notice as its reader gets it."""

    subject: str
    text: str
    html: str


def render(notice: Notice) -> Words:
    """The notice's texts in its language."""
    given = {
        name: parse_datetime(value) if isinstance(value, str) and name.endswith(("_at", "_until")) else value
        for name, value in notice.context.items()
    }
    with translation.override(notice.language):
        context = {
            **given,
            "user": notice.user,
            "notice": notice,
            "brand": current_brand(),
            "panel_url": settings.PUBLIC_URL,
        }
        name = f"notices/{notice.kind}"
        context["subject"] = subject = " ".join(render_to_string(f"{name}_subject.txt", context).split())
        text = render_to_string(f"{name}_message.txt", context).strip() + "\n"
        return Words(subject, text, render_to_string(f"{name}_message.html", context))


# Sending


def send_notice(pk: int) -> None:
    """Send the notice when it waits and may be sent by now; called by the queue, as often as may be."""
    now = timezone.now()
    worker = worker_name()
    claimed = Notice.objects.filter(pk=pk, state=Notice.State.WAITING, send_after__lte=now).update(
        state=Notice.State.SENDING, worker=worker, heartbeat_at=now, handed_at=None, tries=F("tries") + 1
    )
    if not claimed:
        return
    mine = Notice.objects.filter(pk=pk, state=Notice.State.SENDING, worker=worker)
    try:
        notice = Notice.objects.select_related("user").get(pk=pk)
        reason = _why_not(notice, now)
    except DatabaseError:
        raise  # `recover_lost` gives it back.
    except Exception:
        log.exception("notice %s cannot be read", pk)
        mine.update(state=Notice.State.FAILED, error=INTERNAL)
        return
    if reason:
        mine.update(state=Notice.State.DROPPED, error=reason, address="")
        return
    try:
        with Heartbeat(lambda: mine.update(heartbeat_at=timezone.now())):
            _send(notice, mine)
    except _TakenAway:
        log.warning("notice %s was taken away from this worker", pk)
    except MailLimited as limited:
        _let_wait(notice, mine, timedelta(seconds=limited.wait_seconds))
    except (MailFailed, push.PushFailed, sms.SmsFailed) as error:
        _record_failure(notice, mine, error)
    except Channel.DoesNotExist:
        mine.update(state=Notice.State.DROPPED, error=CHANNEL_GONE)
    except DatabaseError:
        log.exception("notice %s could not be sent", pk)
        _try_later(notice, mine.filter(handed_at=None), INTERNAL)
        # What is left here had been handed over.
        _fail(notice, mine, INTERNAL)
    except Exception:
        log.exception("notice %s could not be sent", pk)
        _fail(notice, mine, INTERNAL)
    else:
        mine.update(state=Notice.State.SENT, sent_at=timezone.now(), error="", address="")


def _send(notice: Notice, mine: QuerySet[Notice]) -> None:
    def hand_over() -> None:
        now = timezone.now()
        if not mine.update(handed_at=now, heartbeat_at=now):
            raise _TakenAway

    words = render(notice)
    if notice.channel == Notice.By.EMAIL:
        deliver(_message(notice, words), is_asked=False, before_handing=hand_over)
        return
    channel = Channel.objects.get(pk=notice.target, user=notice.user)
    if notice.channel == Notice.By.PUSH:
        hand_over()
        push.send(channel.address, title=words.subject, text=words.text)
    else:
        hand_over()
        sms.send_notice(channel.address, words.subject)


def _message(notice: Notice, words: Words) -> EmailMultiAlternatives:
    host = settings.ALLOWED_HOSTS[0]
    message = EmailMultiAlternatives(
        words.subject,
        words.text,
        sender(),
        [notice.address],
        # The same for every try, so that a mail system that gets it twice can tell. RFC 3834: nobody's machine shall answer.
        headers={
            "Message-ID": f"<notice.{notice.pk}.{settings.PANEL_ID}@{host}>",
            "Auto-Submitted": "auto-generated",
        },
    )
    message.attach_alternative(words.html, "text/html")
    return message


def _let_wait(notice: Notice, mine: QuerySet[Notice], wait: timedelta) -> None:
    """Their address is at its limit: this one and all others to them wait, the first in line stays the first."""
    until = timezone.now() + wait
    mine.update(state=Notice.State.WAITING, send_after=until, tries=F("tries") - 1)
    Notice.objects.filter(
        user=notice.user, channel=Notice.By.EMAIL, state=Notice.State.WAITING, send_after__lt=until
    ).update(send_after=until)


def _record_failure(
    notice: Notice, mine: QuerySet[Notice], error: MailFailed | push.PushFailed | sms.SmsFailed
) -> None:
    if error.is_in_doubt:
        _fail(notice, mine, IN_DOUBT)
    elif error.is_final:
        _fail(notice, mine, error.reason, handed_at=None)
    else:
        _try_later(notice, mine, error.reason)


def _try_later(notice: Notice, mine: QuerySet[Notice], reason: str) -> None:
    """It was not taken, or never left: the next try comes later, after the last one a person has to look."""
    if notice.tries > len(BACKOFF):
        _fail(notice, mine, reason, handed_at=None)
        return
    send_after = timezone.now() + BACKOFF[notice.tries - 1]
    _settle(mine, state=Notice.State.WAITING, send_after=send_after, error=reason[:400], handed_at=None)


def _fail(notice: Notice, mine: QuerySet[Notice], reason: str, **fields: Any) -> None:
    """A person has to look; `handed_at` stays where the notice may have arrived."""
    if notice.user.closed_at is not None:
        fields["address"] = ""
    _settle(mine, state=Notice.State.FAILED, error=reason[:400], **fields)


def _settle(mine: QuerySet[Notice], **fields: Any) -> None:
    """Write down what became of a notice that did not leave; one that was taken back meanwhile ends here."""
    if not mine.exclude(error=OUTDATED).update(**fields):
        mine.update(**(fields | {"state": Notice.State.DROPPED, "error": OUTDATED, "address": ""}))


# The sweep


def recover_lost(now: datetime) -> None:
    """Give back the notices whose worker died before it handed them over, and end those that it may have sent."""
    lost = Notice.objects.filter(state=Notice.State.SENDING, heartbeat_at__lt=now - LOST_AFTER)
    lost.filter(handed_at=None).update(state=Notice.State.WAITING, send_after=now)
    handed = lost.filter(handed_at__isnull=False)
    handed.filter(error=OUTDATED).update(state=Notice.State.DROPPED, address="")
    handed.exclude(error=OUTDATED).update(state=Notice.State.FAILED, error=IN_DOUBT)


def due_notices(now: datetime) -> list[int]:
    """The notices to be sent now, the longest waiting first: no more e-mails to one person than may go to one address."""
    taken: dict[int, int] = {}
    chosen = []
    rows = Notice.objects.due(now).values_list("pk", "user_id", "channel")[:AT_ONCE]
    for pk, user_pk, channel in rows:
        if channel == Notice.By.EMAIL:
            taken[user_pk] = taken.get(user_pk, 0) + 1
            # One more than may go: it finds the limit and makes the rest wait.
            if taken[user_pk] > LIMIT + 1:
                continue
        chosen.append(pk)
    return chosen
