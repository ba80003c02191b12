"""How alerts get out: what each route is to tell becomes a delivery, is sent, and goes by another route where that fails.

Never lost, and a double as unlikely as can be, as with notices (`accounts.services.notices`): what is told of an alert is a row that a
unique key keeps from coming twice, made in one transaction with the delivery; a delivery is claimed by a conditional UPDATE, and
`handed_at` is written right before it leaves. One that may have arrived is not sent again but goes by another route.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from accounts import push, sms
from accounts.alerts.decide import CRITICAL, SEVERITIES
from accounts.alerts.models import Alert
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling
from accounts.alerts.rules import is_at_least
from accounts.brand import sender
from accounts.models import Notice, User
from accounts.services.notices import IN_DOUBT, INTERNAL, OUTDATED, notify, take_back_notices
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import LOST_AFTER, Heartbeat, worker_name
from derpmgmt.lib.mail import MailFailed, MailLimited, deliver
from derpmgmt.lib.moments import moment
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.sweeps import attempt

log = logging.getLogger(__name__)

# What comes together is one message: a route tells again after this time at the soonest.
FOLD = timedelta(minutes=2)
# Where one of them is critical.
FOLD_CRITICAL = timedelta(seconds=30)
# So long the first of several waits for the others; where one of them is critical half of it, so that it is told by the next sweep.
GATHER = timedelta(seconds=10)
# After a refusal that may pass the n-th try comes so long after the one before; then it is failed. Another route has it by then.
BACKOFF = [timedelta(minutes=minutes) for minutes in (1, 5, 15, 60)]
# Notices of admins of which none left for so long go by another route too.
STAFF_LATE = timedelta(minutes=3)
AT_ONCE = 200
# A message names so many alerts and counts the others.
MOST_NAMED = 20
NOBODY = gettext_noop("There is nobody to tell.")
NOT_YET = gettext_noop("Nothing has left yet.")
_State, _What = AlertDelivery.State, AlertTelling.What


# What every sweep looks up.
_ROUTES = Prepared(lambda: AlertRoute.objects.filter(is_on=True))
_UNDELIVERED = Prepared(
    lambda: (
        AlertDelivery.objects.filter(replaced_at=None)
        .exclude(state__in=(_State.SENT, _State.DROPPED))
        .exclude(error="")
        .select_related("route")[:AT_ONCE]
    )
)
_OF_STAFF = Prepared(
    lambda: AlertDelivery.objects.filter(state=_State.WAITING, route__by=AlertRoute.By.STAFF).order_by("pk")[
        :AT_ONCE
    ]
)
_LOST = Prepared(
    lambda before: AlertDelivery.objects.filter(state=_State.SENDING, heartbeat_at__lt=before).values("pk")[
        :1
    ]
)
_DUE = Prepared(
    lambda now: (
        AlertDelivery.objects.filter(state=_State.WAITING, send_after__lte=now)
        .exclude(route__by=AlertRoute.By.STAFF)
        .order_by("send_after", "pk")
        .values("pk")[:AT_ONCE]
    )
)


def plan(now: datetime) -> None:
    """Make what each route is to tell now into deliveries, and what a route could not deliver one of another route."""
    for route in _ROUTES.read():
        attempt(f"alert route {route.pk}", partial(_plan_route, route, now))
    _settle_staff(now)
    for delivery in _UNDELIVERED.read():
        attempt(f"what alert delivery {delivery.pk} could not tell", partial(_replace, delivery, now))


def _plan_route(route: AlertRoute, now: datetime) -> None:
    untold = _untold(route)
    at_once = [alert for alert in untold if route.tells_now(alert.severity, now)]
    over = [] if route.is_quiet(now) else _OVER.read(route=route.pk)
    oldest = min((alert.raised_at for alert in at_once if alert.raised_at), default=now)
    is_critical = any(alert.severity == CRITICAL for alert in at_once)
    fold, gather = (FOLD_CRITICAL, GATHER / 2) if is_critical else (FOLD, GATHER)
    last = AlertDelivery.objects.filter(route=route, created_at__gt=now - fold, created_at__lte=now)
    if (over or oldest <= now - gather) and not last.exists():
        _make(
            route,
            [(alert, _What.RAISED) for alert in at_once] + [(alert, _What.CLEARED) for alert in over],
            now,
        )
    if route.digest_at:
        _plan_digest(route, [alert for alert in untold if alert.severity != CRITICAL], now)


def _untold(route: AlertRoute) -> list[Alert]:
    severities = tuple(severity for severity in SEVERITIES if is_at_least(severity, route.severity))
    return _UNTOLD.read(severities, tuple(route.kinds), route=route.pk, since=route.created_at)


def _untold_of(
    severities: Sequence[str], kinds: Sequence[str], *, route: int, since: datetime
) -> QuerySet[Alert]:
    told = AlertTelling.objects.filter(
        alert=OuterRef("pk"),
        route=route,
        severity=OuterRef("severity"),
        what__in=(_What.RAISED, _What.DIGEST),
    )
    rows = Alert.objects.filter(
        severity__in=severities, kind__in=kinds, raised_at__gte=since, state=Alert.State.ACTIVE
    )
    return rows.exclude(Exists(told)).order_by("raised_at", "pk")[:AT_ONCE]


def _over_of(route: int) -> QuerySet[Alert]:
    """Those that are well again, of whose beginning this route has told."""
    told = AlertTelling.objects.filter(alert=OuterRef("pk"), route=route)
    return Alert.objects.filter(
        Exists(told.filter(what=_What.RAISED, delivery__state=_State.SENT)),
        ~Exists(told.filter(what=_What.CLEARED)),
        gone_at__isnull=False,
    ).order_by("gone_at", "pk")[:AT_ONCE]


_UNTOLD = Prepared(_untold_of)
_OVER = Prepared(_over_of)


def _plan_digest(route: AlertRoute, untold: Sequence[Alert], now: datetime) -> None:
    assert route.digest_at
    today = timezone.localtime(now)
    due = today.replace(hour=route.digest_at.hour, minute=route.digest_at.minute, second=0, microsecond=0)
    if untold and route.created_at < due <= now:
        told = [(alert, _What.DIGEST) for alert in untold]
        _make(route, told, now, key=f"digest-{today:%Y-%m-%d}", what=AlertDelivery.What.DIGEST)


def _make(
    route: AlertRoute,
    told: Sequence[tuple[Alert, AlertTelling.What]],
    now: datetime,
    *,
    key: str = "",
    what: AlertDelivery.What = AlertDelivery.What.ALERTS,
    instead_of: AlertDelivery | None = None,
) -> None:
    """Nothing where another sweep was first: the unique keys say so."""
    if not told:
        return
    first, why = told[0]
    key = key or f"{why.value}-{first.pk}-{first.severity}"
    if AlertDelivery.objects.filter(route=route, key=key).exists():
        return
    try:
        with transaction.atomic():
            delivery = AlertDelivery.objects.create(
                route=route, key=key, what=what, instead_of=instead_of, created_at=now, send_after=now
            )
            AlertTelling.objects.bulk_create(
                AlertTelling(alert=alert, route=route, delivery=delivery, what=why, severity=alert.severity)
                for alert, why in told
            )
            if route.by == AlertRoute.By.STAFF:
                _notify_staff(delivery)
            else:
                queue.announce("alert_to_tell", delivery.pk)
    except IntegrityError:
        log.info("alert route %s: %s is told already", route.pk, key)


def _notify_staff(delivery: AlertDelivery) -> None:
    for admin in User.objects.filter(role__in=(User.Role.ADMIN, User.Role.SUPERADMIN), is_active=True):
        with translation.override(admin.language):
            subject, lines = words(delivery)
        context = {
            "alert_subject": subject,
            "lines": lines,
            "url": settings.PUBLIC_URL + reverse("admin:alerts"),
        }
        notify(user=admin, kind="alert", key=notice_key(delivery), context=context)


def notice_key(delivery: AlertDelivery) -> str:
    """What the notices of one delivery to every admin have in common."""
    return f"alert-delivery-{delivery.pk}"


def words(delivery: AlertDelivery) -> tuple[str, list[str]]:
    """Subject and lines of a message, in the active language."""
    told = list(delivery.tellings.select_related("alert")[: MOST_NAMED + 1])
    count = delivery.tellings.count()
    # What the subject says of one alone is not said again.
    lines = [_line(telling, is_alone=count == 1) for telling in told[:MOST_NAMED]]
    if count > MOST_NAMED:
        lines.append(_("and %(count)d more") % {"count": count - MOST_NAMED})
    if delivery.what == AlertDelivery.What.DIGEST and count > 1:
        text = ngettext("%(count)d alert of the day", "%(count)d alerts of the day", count)
        return text % {"count": count}, lines
    return (_title(told[0]) if count == 1 else _count(delivery, count)), lines


def _count(delivery: AlertDelivery, count: int) -> str:
    over = delivery.tellings.filter(what=_What.CLEARED).count()
    if over == count:
        return ngettext("%(count)d alert is over", "%(count)d alerts are over", count) % {"count": count}
    text = ngettext("%(count)d alert", "%(count)d alerts", count - over) % {"count": count - over}
    return text if not over else _("%(alerts)s, %(over)d over") % {"alerts": text, "over": over}


def _title(telling: AlertTelling) -> str:
    mark = telling.get_what_display() if telling.what == _What.CLEARED else telling.get_severity_display()
    return f"[{mark}] {telling.alert.title}"


def _line(telling: AlertTelling, *, is_alone: bool) -> str:
    alert = telling.alert
    at = alert.gone_at if telling.what == _What.CLEARED else alert.since
    return " · ".join(part for part in ("" if is_alone else _title(telling), alert.text, moment(at)) if part)


# Sending


def send(pk: int) -> None:
    """Send a delivery when it waits and may be sent by now; called by the queue, as often as may be."""
    now, worker = timezone.now(), worker_name()
    claimed = AlertDelivery.objects.filter(pk=pk, state=_State.WAITING, send_after__lte=now).exclude(
        route__by=AlertRoute.By.STAFF
    )
    if not claimed.update(
        state=_State.SENDING, worker=worker, heartbeat_at=now, handed_at=None, tries=F("tries") + 1
    ):
        return
    mine = AlertDelivery.objects.filter(pk=pk, state=_State.SENDING, worker=worker)
    delivery = AlertDelivery.objects.select_related("route").get(pk=pk)
    if _is_outdated(delivery):
        mine.update(state=_State.DROPPED, error=OUTDATED)
        return
    try:
        with Heartbeat(lambda: mine.update(heartbeat_at=timezone.now())):
            _send(delivery, mine)
    except _TakenAway:
        log.warning("alert delivery %s was taken away from this worker", pk)
    except MailLimited as limited:
        until = timezone.now() + timedelta(seconds=limited.wait_seconds)
        mine.update(state=_State.WAITING, send_after=until, tries=F("tries") - 1)
    except (MailFailed, push.PushFailed, sms.SmsFailed) as error:
        _record_failure(delivery, mine, error)
    except DatabaseError:
        raise  # `recover_lost` sees to it.
    except Exception:
        log.exception("alert delivery %s could not be sent", pk)
        mine.update(state=_State.FAILED, error=INTERNAL)
    else:
        mine.update(state=_State.SENT, sent_at=timezone.now(), error="")


class _TakenAway(Exception):
    """The sweep held this worker for dead; the delivery is no longer its own."""


def _is_outdated(delivery: AlertDelivery) -> bool:
    """Whether all that it tells of began and was over before it left."""
    told = delivery.tellings
    return not told.exclude(what=_What.RAISED, alert__gone_at__isnull=False).exists()


def _send(delivery: AlertDelivery, mine: QuerySet[AlertDelivery]) -> None:
    def hand_over() -> None:
        now = timezone.now()
        if not mine.update(handed_at=now, heartbeat_at=now):
            raise _TakenAway

    route = delivery.route
    with translation.override(route.language):
        subject, lines = words(delivery)
        hand(route, subject, lines, before_handing=hand_over, number=str(delivery.pk))


def hand(route: AlertRoute, subject: str, lines: Iterable[str], *, before_handing: Any, number: str) -> None:
    """Give a message to what carries it, in the active language. Raises `MailFailed`, `MailLimited`, `PushFailed`, `SmsFailed`."""
    text = "\n".join([*lines, "", settings.PUBLIC_URL + reverse("admin:alerts")])
    if route.by == AlertRoute.By.EMAIL:
        host = settings.ALLOWED_HOSTS[0]
        # The same for every try, so that a mail system that gets it twice can tell. RFC 3834: nobody's machine shall answer.
        headers = {
            "Message-ID": f"<alert.{number}.{settings.PANEL_ID}@{host}>",
            "Auto-Submitted": "auto-generated",
        }
        message = EmailMessage(subject, text, sender(), [route.address], headers=headers)
        deliver(message, is_asked=False, before_handing=before_handing)
        return
    before_handing()
    if route.by == AlertRoute.By.PUSH:
        push.send(route.address, title=subject, text=text)
    else:
        sms.send_notice(route.address, subject)


def _record_failure(
    delivery: AlertDelivery,
    mine: QuerySet[AlertDelivery],
    error: MailFailed | push.PushFailed | sms.SmsFailed,
) -> None:
    if error.is_in_doubt:
        mine.update(state=_State.FAILED, error=IN_DOUBT)
    elif error.is_final or delivery.tries > len(BACKOFF):
        mine.update(state=_State.FAILED, error=error.reason[:400], handed_at=None)
    else:
        send_after = timezone.now() + BACKOFF[delivery.tries - 1]
        mine.update(state=_State.WAITING, send_after=send_after, error=error.reason[:400], handed_at=None)


def recover_lost(now: datetime) -> None:
    """Give back what a worker died with before it was handed over, and end what it may have sent."""
    if not _LOST.read(before=now - LOST_AFTER):
        return
    lost = AlertDelivery.objects.filter(state=_State.SENDING, heartbeat_at__lt=now - LOST_AFTER)
    lost.filter(handed_at=None).update(state=_State.WAITING, send_after=now)
    lost.filter(handed_at__isnull=False).update(state=_State.FAILED, error=IN_DOUBT)


def due(now: datetime) -> list[int]:
    """What may be sent now, the longest waiting first."""
    return [row["pk"] for row in _DUE.read(now=now)]


# By another route


def _settle_staff(now: datetime) -> None:
    """Deliveries to every admin are what became of their notices."""
    for delivery in _OF_STAFF.read():
        notices = list(
            Notice.objects.filter(key=notice_key(delivery)).values_list("state", "error", "sent_at")
        )
        state = Notice.State
        still = [error for what, error, _at in notices if what in (state.WAITING, state.SENDING)]
        mine = AlertDelivery.objects.filter(pk=delivery.pk, state=_State.WAITING)
        if _is_outdated(delivery) and _take_back(delivery, mine):
            continue
        if sent := [at for what, _error, at in notices if what == state.SENT]:
            mine.update(state=_State.SENT, sent_at=max(filter(None, sent), default=now), error="")
        elif not still:
            errors = [error for _what, error, _at in notices if error]
            mine.update(state=_State.FAILED, error=errors[0] if errors else NOBODY)
        elif now - delivery.created_at >= STAFF_LATE and not delivery.error:
            mine.update(error=next(filter(None, still), NOT_YET))


@transaction.atomic
def _take_back(delivery: AlertDelivery, mine: QuerySet[AlertDelivery]) -> bool:
    """What is over before it left is told to nobody; False where somebody has it already."""
    if take_back_notices(key=notice_key(delivery)):
        return False
    mine.update(state=_State.DROPPED, error=OUTDATED)
    return True


def _replace(delivery: AlertDelivery, now: datetime) -> None:
    """Have another route tell what this one could not; without another it stays as it is, for people to see."""
    tried, before = {delivery.route_id}, delivery.instead_of
    while before is not None:
        tried.add(before.route_id)
        before = before.instead_of
    told = [
        (telling.alert, AlertTelling.What(telling.what))
        for telling in delivery.tellings.select_related("alert")
    ]
    for route in AlertRoute.objects.filter(is_on=True).exclude(pk__in=tried):
        known = Q()
        for alert, what in told:
            known |= Q(alert=alert, what=what, severity=alert.severity)
        had = set(AlertTelling.objects.filter(known, route=route).values_list("alert", "what"))
        left = [(alert, what) for alert, what in told if (alert.pk, what.value) not in had]
        # One that tells it anyway need not tell it twice.
        if left:
            kind = AlertDelivery.What(delivery.what)
            _make(route, left, now, key=f"instead-{delivery.pk}", what=kind, instead_of=delivery)
        break
    AlertDelivery.objects.filter(pk=delivery.pk, replaced_at=None).update(replaced_at=now)
