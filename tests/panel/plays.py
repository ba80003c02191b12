"""The plays that are killed and doubled: what stands in the database, what somebody does, and what it comes to."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

from django.contrib.sessions.backends.db import SessionStore

from accounts import jobs as accounts
from accounts.alerts import jobs as alerts
from accounts.alerts.route_models import AlertRoute
from accounts.models import Notice, User
from accounts.services import close_account, log_operation, notify
from acl.maps import jobs as acl
from acl.maps.models import AclEvent
from containers import jobs as containers
from containers.models import Relay
from fleet.models import Server
from fleet.services import record_contact, update_server
from serials.numbers import jobs as numbers
from serials.rentals import jobs as rentals
from serials.rentals.models import Rental
from serials.rentals.services import RentalRefused, pause_rental, renew_rental, resume_rental
from tests.factories import (
    AclEventFactory,
    ChannelFactory,
    LiveUrlFactory,
    RedeemedRentalFactory,
    SerialBatchFactory,
    ServerFactory,
    UserFactory,
    UserSessionFactory,
)
from tests.panel.stage import BEGIN, LIVE_SECRET, Play, Stage

DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)


# What stands in the database when a play begins


def redeem(user: User, days: int = 30, **terms: Any) -> Rental:
    return RedeemedRentalFactory(user=user, days=days, **terms)


def customer(stage: Stage, name: str, ends_at: datetime, days: int = 30, **terms: Any) -> Rental:
    """A customer with relays and a map whose time ends then."""
    with stage.at(ends_at - timedelta(days=days)):
        rental = redeem(UserFactory(email=f"{name}@example.com"), days, **terms)
        stage.work()
    return rental


def add_live_url(rental: Rental) -> None:
    LiveUrlFactory(rental=rental, secret=LIVE_SECRET, created_at=BEGIN - DAY)


def add_channel(user: User) -> None:
    """A push service on their phone."""
    ChannelFactory(user=user, confirmed_at=BEGIN)


def ending_rentals(stage: Stage) -> None:
    """Grace over, end without grace, still in the grace, unused serial numbers past their day."""
    customer(stage, "zhao", BEGIN)  # before there is any server
    ServerFactory.create_batch(4, healthy=True)
    add_live_url(customer(stage, "li", BEGIN - 3 * DAY, grace_days=3))
    customer(stage, "wang", BEGIN - DAY, grace_days=3)
    with stage.at(BEGIN - DAY):
        SerialBatchFactory(days=9, count=3, redeem_by=date(2031, 3, 4))
        stage.run(acl.sweep_maps)


def span_begins(stage: Stage) -> None:
    """What they redeemed later is bound to servers of which their relays stand on two."""
    made = ServerFactory.create_batch(4, healthy=True)
    rental = customer(stage, "li", BEGIN)
    add_live_url(rental)
    with stage.at(BEGIN - DAY):
        redeem(rental.user, device_limit=7, servers=made[1:])
        stage.run(acl.sweep_maps)


def reminded_rentals(stage: Stage) -> None:
    """Ends in seven, three and one day, and now; warnings of the closing, the first and the last."""
    for days in (7, 3, 1, 0):
        customer(stage, f"in{days}", BEGIN + days * DAY)
    for days in (23, 29):
        rental = customer(stage, f"ago{days}", BEGIN - days * DAY)
        with stage.at(BEGIN - days * DAY):
            stage.run(rentals.sweep_rentals, rentals.sweep_reminders)
    with stage.at(BEGIN - 6 * DAY):
        stage.run(rentals.sweep_closing)
    assert Notice.objects.filter(user=rental.user, kind="account_closing").count() == 1


def reminded_by_phone(stage: Stage) -> None:
    add_channel(customer(stage, "li", BEGIN + DAY).user)


def trace(rental: Rental) -> None:
    """What closing an account has to take away."""
    user = rental.user
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session.save()
    UserSessionFactory(user=user, session_key=session.session_key, created_at=BEGIN)
    add_channel(user)
    log_operation(by=user, action="email.changed", target=user.email, subject=user, ip="203.0.113.7")
    notify(user=user, kind="rental_ending", key="late", context={"ends_at": BEGIN.isoformat(), "url": "/"})
    AclEventFactory(rental=rental, kind=AclEvent.Kind.REFUSED, by=user, ip="203.0.113.7", at=BEGIN)


def ended_long_ago(stage: Stage) -> None:
    """Two who were warned and whose time is over; the one of them has a balance, which an admin is told of."""
    for name in ("li", "rich"):
        customer(stage, name, BEGIN - 31 * DAY)
    for days in (31, 8, 2):
        with stage.at(BEGIN - days * DAY):
            stage.run(rentals.sweep_rentals, rentals.sweep_reminders, rentals.sweep_closing)
    with stage.at(BEGIN - DAY):
        UserFactory(email="admin@example.com", role=User.Role.ADMIN)
        add_live_url(the_rental())
        trace(the_rental())


def refuse_the_rich(user: User) -> Iterator[str]:
    if user.email == "rich@example.com":
        yield "There is a balance."


def running(stage: Stage) -> None:
    """A customer in the middle of their time, with a live URL."""
    ServerFactory.create_batch(4, healthy=True)
    rental = customer(stage, "li", BEGIN + 10 * DAY)
    with stage.at(BEGIN - DAY):
        stage.run(acl.sweep_maps)
        add_live_url(rental)


def running_with_traces(stage: Stage) -> None:
    running(stage)
    with stage.at(BEGIN - DAY):
        trace(the_rental())


def paused(stage: Stage) -> None:
    running(stage)
    with stage.at(BEGIN - DAY):
        pause()
        stage.work()


def ended(stage: Stage) -> None:
    ServerFactory.create_batch(4, healthy=True)
    add_live_url(customer(stage, "li", BEGIN - DAY))
    with stage.at(BEGIN - DAY):
        stage.run(rentals.sweep_rentals)


def the_rental() -> Rental:
    return Rental.objects.get(user__username="li")


def close() -> None:
    """They close their account; a doubled click finds it closed."""
    user = User.objects.get(pk=1)
    close_account(user=user, by=user, ip="203.0.113.7")


def pause() -> None:
    pause_rental(rental=the_rental(), by=None, reason="a journey")


def resume() -> None:
    resume_rental(rental=the_rental(), by=None)


def renew() -> None:
    with suppress(RentalRefused):  # a doubled click: it runs so long already
        renew_rental(rental=the_rental(), until=BEGIN + 10 * DAY, by=None)


def maps_due(stage: Stage) -> None:
    """One version is in its last three days, one has lapsed, one customer has no right to their any more. What follows leads elsewhere."""
    ServerFactory.create_batch(4, healthy=True)
    li = customer(stage, "li", BEGIN + 30 * DAY, 60)
    add_live_url(li)
    lapsed = customer(stage, "lapsed", BEGIN + 27 * DAY, 60)
    stopped = customer(stage, "stopped", BEGIN + 10 * DAY)
    with stage.at(BEGIN - 20 * DAY + 3 * MINUTE):
        stage.run(acl.sweep_maps)
    Relay.objects.filter(rental__in=[li, lapsed], slot=1).update(stun_port=1)
    Rental.objects.filter(pk=stopped.pk).update(paused_at=BEGIN - MINUTE)
    Relay.objects.filter(rental=stopped).update(changed_at=BEGIN - MINUTE)


def move_server() -> None:
    """An operator gives a server another address."""
    server = Relay.objects.get(slot=1).server
    update_server(server=server, by=None, address="198.51.100.7")


def know_all(rental_pk: int) -> Iterator[int]:
    """They paste each map at once."""
    yield from Relay.objects.filter(rental=rental_pk).values_list("pk", flat=True)


def lapsed_map(stage: Stage) -> None:
    """A version that lapsed while the panel was away."""
    ServerFactory.create_batch(4, healthy=True)
    add_live_url(customer(stage, "li", BEGIN + 27 * DAY, 60))


def old_certificate(stage: Stage) -> None:
    """One relay's certificate ends in a month."""
    running(stage)
    Relay.objects.filter(slot=1).update(certificate_ends_at=BEGIN + 29 * DAY, changed_at=BEGIN - DAY)


def silent(stage: Stage) -> None:
    """A server has not answered for long, nor has the relay there carried anything; an admin and a customer are to be told."""
    running(stage)
    with stage.at(BEGIN - DAY):
        UserFactory(email="admin@example.com", role=User.Role.ADMIN)
    since = BEGIN - 20 * MINUTE
    relay = Relay.objects.get(slot=1)
    Server.objects.filter(pk=relay.server_id).update(
        status=Server.Status.UNHEALTHY, silent_since=since, contact_failures=3
    )
    Relay.objects.filter(pk=relay.pk).update(failing_since=since)


def silent_and_untold(stage: Stage) -> None:
    """A server is silent, and alerts are told to nobody."""
    silent(stage)
    AlertRoute.objects.all().delete()


def silent_and_raised(stage: Stage) -> None:
    silent_and_untold(stage)
    with stage.at(BEGIN - MINUTE):
        stage.run(alerts.sweep_alerts)


def answer() -> None:
    """The server answers again."""
    record_contact(server_pk=Relay.objects.get(slot=1).server_id)


RELAYS = [containers.sweep, acl.sweep_maps]
SOON = (timedelta(), 30 * SECOND, 60 * SECOND)
# What is asked at the end.
STATES = "SELECT status, count(*) FROM serials_rental GROUP BY 1"
SERIALS = "SELECT status, count(*) FROM serials_serialnumber GROUP BY 1"
GRANTED = "SELECT kind, granted_seconds FROM serials_redemption ORDER BY id"
ASTRAY = """
    SELECT count(*) FROM containers_relay r JOIN fleet_server s ON s.id = r.server_id
    WHERE r.certificate_address != s.address
"""
PLACES = "SELECT slot, status FROM containers_relay ORDER BY id"
VERSIONS = "SELECT rental_id, version FROM acl_aclconfig WHERE is_active ORDER BY 1"
TOLD = "SELECT kind, state, count(*) FROM accounts_notice WHERE kind != 'rental_redeemed' GROUP BY 1, 2"
ALERTS = "SELECT kind, state, count(*) FROM accounts_alert GROUP BY 1, 2"
CLOSED = "SELECT closing_at IS NOT NULL, closed_at IS NOT NULL, count(*) FROM accounts_user GROUP BY 1, 2"
TRACES = """
    SELECT (SELECT count(*) FROM acl_aclevent WHERE ip IS NOT NULL),
        (SELECT count(*) FROM acl_liveurl WHERE secret != ''),
        (SELECT count(*) FROM accounts_channel),
        (SELECT count(*) FROM usersessions_usersession),
        (SELECT count(*) FROM django_session),
        (SELECT count(*) FROM accounts_operationlog WHERE target LIKE 'li@%' OR ip = '203.0.113.7'),
        (SELECT count(*) FROM accounts_notice WHERE address != '')
"""
LAPSED = "SELECT rental_id, version FROM acl_aclconfig WHERE lapsed_at IS NOT NULL ORDER BY 1"
GONE, THREE = (None, "released"), [(1, "running"), (2, "running"), (3, "running")]

PLAYS = {
    "rentals and serial numbers end, one is in its grace": Play(
        ending_rentals,
        [rentals.sweep_rentals, numbers.expire_serials, *RELAYS],
        {
            STATES: [("active", 1), ("expired", 2)],
            SERIALS: [("expired", 3), ("used", 3)],
            PLACES: [GONE, GONE, GONE, *THREE],
            VERSIONS: [(3, 2)],
        },
    ),
    "a span begins that is bound to other servers": Play(
        span_begins, RELAYS, {PLACES: [(None, "running"), *THREE[1:], (1, "running")], VERSIONS: [(1, 3)]}
    ),
    "reminders and warnings": Play(
        reminded_rentals,
        [rentals.sweep_reminders, rentals.sweep_closing],
        {
            TOLD: [
                ("account_closing", "waiting", 3),
                ("rental_ended", "waiting", 3),
                ("rental_ending", "waiting", 3),
            ]
        },
    ),
    "a reminder by mail and phone": Play(
        reminded_by_phone,
        [rentals.sweep_reminders, accounts.sweep_notices],
        {TOLD: [("rental_ending", "sent", 2)]},
    ),
    "accounts are closed by themselves": Play(
        ended_long_ago,
        [rentals.sweep_closing, accounts.sweep_closing, accounts.sweep_notices, containers.sweep],
        {
            TOLD: [
                ("account_closed", "sent", 1),
                ("account_closing", "sent", 4),
                ("account_closing_refused", "sent", 1),
                ("rental_ended", "sent", 2),
                ("rental_ending", "dropped", 2),
            ],
            STATES: [("closed", 1), ("expired", 1)],
            CLOSED: [(0, 0, 2), (1, 1, 1)],
            TRACES: [(0,) * 7],
        },
        moments=SOON,
        answers={"closing_reasons": refuse_the_rich},
    ),
    "somebody closes their account": Play(
        running_with_traces,
        [accounts.sweep_closing, accounts.sweep_notices, *RELAYS],
        {
            TOLD: [("account_closed", "sent", 1), ("rental_ending", "dropped", 2)],
            STATES: [("closed", 1)],
            CLOSED: [(1, 1, 1)],
            TRACES: [(0,) * 7],
            PLACES: [GONE, GONE, GONE],
            VERSIONS: [],
        },
        close,
        moments=SOON,
    ),
    "pause": Play(
        running, RELAYS, {STATES: [("paused", 1)], PLACES: [GONE, GONE, GONE], VERSIONS: []}, pause
    ),
    "resume": Play(paused, RELAYS, {STATES: [("active", 1)], PLACES: THREE, VERSIONS: [(1, 2)]}, resume),
    "renewal of a rental that had ended": Play(
        ended,
        RELAYS,
        {
            STATES: [("active", 1)],
            PLACES: THREE,
            VERSIONS: [(1, 2)],
            GRANTED: [("serial", 30 * 86400), ("renewal", 10 * 86400), ("waiting", 90)],
        },
        renew,
        moments=(timedelta(), 90 * SECOND),
        servers_answer=90 * SECOND,
    ),
    "maps are renewed, withdrawn and told of": Play(
        maps_due,
        [acl.sweep_maps, accounts.sweep_notices],
        {VERSIONS: [(1, 2), (2, 2)], LAPSED: [(2, 1)], TOLD: [("map_changed", "sent", 2)]},
        moments=(timedelta(), 3 * MINUTE, 4 * MINUTE),
    ),
    "pins are changed when a map lapses": Play(
        lapsed_map,
        RELAYS,
        {PLACES: [(None, "running"), (None, "running"), (None, "running"), *THREE], LAPSED: [(1, 1)]},
        servers_answer=30 * SECOND,
        settings={"ROTATE_PINS": True},
        # How many versions come between depends on how many relays were ready for each.
        accidental=frozenset({"acl_aclconfig", "acl_aclevent"}),
    ),
    "a server gets another address": Play(
        running,
        [containers.check_certificates, *RELAYS],
        {PLACES: THREE, VERSIONS: [(1, 2)], ASTRAY: [(0,)]},
        move_server,
        # Two who save the same at once both stand in the log.
        accidental=frozenset({"accounts_operationlog"}),
    ),
    "a server does not answer and its relay carries nothing": Play(
        silent,
        [containers.sweep_outages, accounts.sweep_notices],
        {TOLD: [("relay_silent", "sent", 1)]},
        moments=SOON,
    ),
    "what is wrong becomes alerts": Play(
        silent_and_untold,
        [alerts.sweep_alerts],
        {ALERTS: [("panel", "active", 3), ("server_error", "active", 1)]},
        moments=SOON,
    ),
    "what was wrong is well again": Play(
        silent_and_raised,
        [alerts.sweep_alerts],
        {ALERTS: [("panel", "active", 3), ("server_error", "cleared", 1)]},
        answer,
        moments=SOON,
    ),
    "a certificate is near its end": Play(
        old_certificate,
        [containers.rotate_certificates, containers.sweep_retiring, *RELAYS],
        {PLACES: [GONE, *THREE[1:], (1, "running")], VERSIONS: [(1, 2)]},
        moments=(timedelta(), MINUTE, 62 * MINUTE),
        servers_answer=MINUTE,
        answers={"known_relays": know_all},
    ),
}
