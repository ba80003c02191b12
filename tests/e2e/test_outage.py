"""A week in which nothing runs, with customers at every point of their rental: what it left undone is done once, and no more."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.conf import settings
from django.utils import timezone

from accounts.models import Notice, OperationLog, User
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclConfig
from acl.maps.services import hand_out_map
from containers.models import Relay
from containers.services.ground import CERTIFICATE_RESERVE
from derpmgmt import flow
from fleet.models import Server
from serials.numbers.models import SerialNumber
from serials.numbers.services import redeem_serial
from serials.rentals.jobs import sweep_reminders
from serials.rentals.models import Redemption, Rental
from serials.rentals.services import pause_rental
from tests.factories import SerialBatchFactory, SerialNumberFactory, UserFactory

from .conftest import Fleet
from .test_life import assert_map_works, the_map

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)
NAMES = ("ending", "near", "renewed", "paused", "lapsing", "certified", "warned", "unwarned")


def rental_of(name: str) -> Rental:
    return Rental.objects.get(user__username=name)


def nodes(derp_map: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for region in derp_map["Regions"].values() for node in region["Nodes"]]


def versions() -> dict[str, int]:
    """The version of each map that counts."""
    active = AclConfig.objects.filter(is_active=True)
    return dict(active.values_list("rental__user__username", "version"))


def running(fleet: Fleet) -> dict[str, int]:
    """How many relays of each customer really run on the hosts; nothing else of ours stands there."""
    owners = dict(Relay.objects.values_list("pk", "rental__user__username"))
    found = [found for server in fleet.servers for found in fleet.containers(server)]
    assert {item.state for item in found} == {"running"}
    assert sum(len(fleet.volumes(server)) for server in fleet.servers) == len(found)
    return Counter(owners[item.relay_id] for item in found)


def test_what_a_weeks_outage_left_undone_is_done_once(fleet: Fleet, work: Any) -> None:
    Server.objects.update(capacity=50)
    users = {name: UserFactory(email=f"{name}@example.com") for name in NAMES}
    begin = timezone.now()
    outage = begin + 30 * DAY
    with time_machine.travel(begin, tick=True) as clock:

        def told() -> dict[str, Counter[str]]:
            """What was sent to each customer, by kind."""
            sent = Notice.objects.filter(state=Notice.State.SENT)
            return {
                name: Counter(sent.filter(user=users[name]).values_list("kind", flat=True)) for name in NAMES
            }

        def told_since(before: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
            """What was sent meanwhile, to whom anything was."""
            return {
                name: dict(counts - before[name]) for name, counts in told().items() if counts - before[name]
            }

        def at(day: float) -> datetime:
            """Days before (negative) and after the outage's begin; it ends on day 7."""
            return outage + day * DAY

        def redeem(name: str, days: int) -> None:
            redeem_serial(code=SerialNumberFactory(days=days).code, user=users[name], by=users[name])

        def sweep() -> None:
            """All that the clock rings for, and what comes of it."""
            for tick in flow.CRON:
                tick.job(*tick.args)
            work()

        def live(until: float, hours: float = 12) -> None:
            """Ordinary days."""
            while timezone.now() < at(until):
                clock.move_to(min(timezone.now() + timedelta(hours=hours), at(until)))
                sweep()

        # Nobody has relays made for these two: only how they end matters.
        clock.move_to(at(-29))
        redeem("warned", 1)  # its account is closed on day 2: warned on day -5, and to be on day 1
        clock.move_to(at(-27.5))
        sweep()
        for name in ("ending", "renewed", "paused"):
            redeem(name, 30)  # until day 2.5
        redeem("lapsing", 60)  # its map lapses on day 4.5, and the next one is due on day 1.5
        work()
        lapsed = the_map(rental_of("lapsing"))
        clock.move_to(at(-23.2))
        redeem("unwarned", 1)  # its account is closed on day 7.8: to be warned on days 0.8 and 6.8
        clock.move_to(at(-21.5))
        sweep()
        redeem("certified", 60)
        redeem("near", 29)  # until day 7.5: reminders are due on days 0.5, 4.5 and 6.5
        work()
        Relay.objects.filter(rental=rental_of("certified")).update(
            certificate_ends_at=at(2) + CERTIFICATE_RESERVE
        )
        pins = {node["CertName"] for node in nodes(the_map(rental_of("certified")))}
        batch = SerialBatchFactory(count=2, redeem_by=at(3).date())
        for day in (-4.9, -4.4, -1):
            clock.move_to(at(day))
            sweep()
        pause_rental(rental=rental_of("paused"), by=None, reason="asked for")
        redeem("renewed", 30)
        sweep()
        clock.move_to(at(-0.4))
        # The last thing before the lights go out: "ending" is to be told that three days are left, but no mail leaves any more.
        sweep_reminders()
        for name in settings.QUEUES:
            django_rq.get_queue(name).empty()
        before, before_versions = told(), versions()
        assert {name: dict(counts) for name, counts in before.items()} == {
            "ending": {"rental_redeemed": 1, "rental_ending": 1},
            "near": {"rental_redeemed": 1},
            "renewed": {"rental_redeemed": 1, "rental_ending": 1, "rental_renewed": 1},
            "paused": {"rental_redeemed": 1, "rental_ending": 1, "rental_paused": 1},
            "lapsing": {"rental_redeemed": 1},
            "certified": {"rental_redeemed": 1},
            "warned": {"rental_redeemed": 1, "rental_ended": 1, "account_closing": 1},
            "unwarned": {"rental_redeemed": 1, "rental_ended": 1},
        }
        assert Notice.objects.get(state="waiting").user == users["ending"]
        standing = {"ending": 3, "near": 3, "renewed": 3, "lapsing": 3, "certified": 3}
        assert running(fleet) == standing

        # Seven days later.
        clock.move_to(at(7))
        assert running(fleet) == standing
        for _time in range(3):
            sweep()
            # The news about maps waits until it has been quiet for two minutes.
            clock.shift(timedelta(minutes=3))
        sweep()
        assert told_since(before) == {
            "ending": {"rental_ended": 1},
            "near": {"rental_ending": 1},
            "certified": {"map_changed": 1},
            "warned": {"account_closing": 1},
            "unwarned": {"account_closing": 1},
        }
        assert rental_of("ending").status == "expired"
        assert rental_of("paused").status == "paused"
        assert running(fleet) == {"near": 3, "renewed": 3, "lapsing": 3, "certified": 6}
        assert set(batch.serials.values_list("status", flat=True)) == {SerialNumber.Status.EXPIRED}
        assert not User.objects.closing().exists()
        # The next version names the same relays; new relays have taken places over, one a minute, and the old ones run on.
        assert_map_works(rental_of("lapsing"), lapsed)
        assert len(nodes(the_map(rental_of("certified")))) == 3
        # How many "certified" got on the way depends on when its new relays were proven.
        new_versions = {name: versions()[name] - before_versions[name] for name in versions()}
        assert new_versions | {"certified": 1} == {"near": 0, "renewed": 1, "lapsing": 1, "certified": 1}

        # And the next days are days like others: the old pins go once their customer has the new ones.
        hand_out_map(
            rental=rental_of("certified"), file_format=MapFormat.HUJSON, by=rental_of("certified").user
        )
        after = told()
        live(8.2)
        assert told_since(after) == {
            "near": {"rental_ended": 1},
            "warned": {"account_closed": 1},
            "unwarned": {"account_closed": 1},
        }
        after = told()
        live(12.2, hours=24)
        assert told_since(after) == {}
        closed = User.objects.filter(closed_at__isnull=False)
        assert {user.pk for user in closed} == {users["warned"].pk, users["unwarned"].pk}
        assert OperationLog.objects.filter(action="user.closing").count() == 2
        assert rental_of("near").status == "expired"
        assert running(fleet) == {"renewed": 3, "lapsing": 3, "certified": 3}
        assert_map_works(rental_of("lapsing"), lapsed)
        assert not pins & {node["CertName"] for node in nodes(the_map(rental_of("certified")))}
        assert Redemption.objects.exclude(kind="waiting").count() == len(NAMES) + 1
