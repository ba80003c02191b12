"""What follows from what was used, written into the rows: who is told, what stops, and what brings it back."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.conf import settings
from django.utils import timezone

from accounts.models import Notice, OperationLog
from acl.devices.services.foresight import foresee
from acl.devices.services.places import device_limit
from containers.jobs.allowances import judge_rentals
from containers.matters import matters
from containers.models import Relay
from containers.services.allowances import set_relay_limits, unrecorded
from containers.services.moving import allocate_relay
from containers.services.planning import plan_relays
from containers.services.traffic import month_of
from containers.traffic_models import TrafficMonth
from serials.rentals import services
from serials.rentals.models import Rental
from tests.containers.rentals import prove, ways
from tests.factories import RelayFactory, RentalFactory, ServerFactory, UserFactory

pytestmark = pytest.mark.django_db
GB = 10**9


def rental_of(at_quota: str = "stop", quota: int | None = 100 * GB) -> Rental:
    """A customer with three relays that run."""
    rental = RentalFactory()
    rental.spans.update(quota_bytes=quota, at_quota=at_quota)
    for slot in (1, 2, 3):
        RelayFactory(rental=rental, slot=slot, stun_port=20500 + slot, server__healthy=True)
    return rental


def use(rental: Rental, up: int, down: int = 0, *, slot: int = 1, months_ago: int = 0) -> None:
    relay = rental.relays.filter(slot=slot).first() or rental.relays.get(return_slot=slot)
    month = month_of(rental, timezone.now())
    for _time in range(months_ago):
        month = month_of(rental, month - timedelta(days=1))
    now = timezone.now()
    row, _made = TrafficMonth.objects.get_or_create(
        relay=relay, begins_on=month, defaults={"rental": rental, "read_at": now}
    )
    TrafficMonth.objects.filter(pk=row.pk).update(up_bytes=up, down_bytes=down)


def judged(rental: Rental) -> Rental:
    judge_rentals()
    assert unrecorded(timezone.now()) == []
    return Rental.objects.get(pk=rental.pk)


def told(rental: Rental) -> list[str]:
    return list(Notice.objects.filter(user=rental.user).order_by("pk").values_list("kind", flat=True))


def apply(rental: Rental) -> None:
    plan_relays(rental_pk=rental.pk)
    prove(rental)


def running(rental: Rental) -> list[int]:
    return sorted(rental.relays.filter(status=Relay.Status.RUNNING).values_list("slot", flat=True))


def admin():
    return UserFactory(role="superadmin")


def test_each_step_is_told_once_a_month_and_the_relays_stop_at_the_end():
    rental = rental_of()
    use(rental, 40 * GB, slot=1)
    use(rental, 0, 39 * GB, slot=2)
    assert judged(rental).traffic_state == "fine"
    assert told(rental) == []
    use(rental, 40 * GB, 1 * GB, slot=2)
    assert judged(rental).traffic_state == "near"
    judged(rental)
    assert told(rental) == ["traffic_near"]
    use(rental, 99 * GB, slot=3)
    before = ways(rental)
    stopped = judged(rental)
    assert stopped.stopped_at
    assert not stopped.has_rights(timezone.now())
    assert stopped.is_entitled(timezone.now())
    assert not Rental.objects.with_rights(timezone.now()).exists()
    apply(rental)
    assert not rental.relays.live().exists()
    assert told(rental) == ["traffic_near", "traffic_over"]
    # The month after it, everything is back as it was.
    TrafficMonth.objects.update(
        begins_on=month_of(rental, month_of(rental, timezone.now()) - timedelta(days=1))
    )
    assert judged(rental).stopped_at is None
    apply(rental)
    assert ways(rental) == before
    assert told(rental) == ["traffic_near", "traffic_over"]
    actions = list(
        OperationLog.objects.filter(subject=rental.user).order_by("pk").values_list("action", flat=True)
    )
    assert [name for name in actions if name.startswith("rental.")] == ["rental.stopped", "rental.going_on"]


@pytest.mark.parametrize("at_quota", ["throttle", "nothing"])
def test_what_was_sold_otherwise_stops_nothing(at_quota):
    rental = rental_of(at_quota)
    use(rental, 200 * GB)
    judged_rental = judged(rental)
    assert (judged_rental.traffic_state, judged_rental.stopped_at) == ("over", None)
    assert told(rental) == ["traffic_over"]
    apply(rental)
    assert running(rental) == [1, 2, 3]


def test_traffic_that_was_added_and_a_renewal_bring_it_back():
    rental = rental_of()
    use(rental, 120 * GB)
    assert judged(rental).stopped_at
    services.add_traffic(rental=rental, size_bytes=10 * GB, by=None)
    assert judged(rental).stopped_at
    services.add_traffic(rental=rental, size_bytes=15 * GB, by=None)
    assert judged(rental).stopped_at is None
    use(rental, 130 * GB)
    assert judged(rental).stopped_at
    services.renew_rental(rental=rental, until=rental.ends_at + timedelta(days=30), by=None)
    assert judged(rental).stopped_at is None
    grant = rental.traffic_grants.get(redemption__isnull=False)
    # As much as was sold, without what was added.
    assert grant.size_bytes == 100 * GB
    use(rental, 226 * GB)
    assert judged(rental).stopped_at
    # The next month knows nothing of it.
    grants = {grant.pk: grant.at - timedelta(days=40) for grant in rental.traffic_grants.all()}
    for pk, at in grants.items():
        type(grant).objects.filter(pk=pk).update(at=at)
    use(rental, 101 * GB)
    assert judged(rental).stopped_at


def test_what_is_said_for_the_customer_goes_before_what_was_sold():
    rental = rental_of()
    use(rental, 120 * GB)
    assert judged(rental).stopped_at
    by = admin()
    assert services.set_limits(rental=rental, caps={"cap_both_bytes": 0}, note="a friend", by=by)
    assert not services.set_limits(rental=rental, caps={"cap_both_bytes": 0}, note="a friend", by=by)
    assert judged(rental).traffic_state == "fine"
    services.set_limits(rental=rental, caps={"cap_both_bytes": None, "cap_up_bytes": 1}, note="", by=by)
    services.set_limits(rental=rental, caps={"cap_at_quota": "throttle"}, note="", by=by)
    throttled = judged(rental)
    assert (throttled.traffic_state, throttled.stopped_at) == ("over", None)
    assert OperationLog.objects.filter(action="rental.limits_changed", actor=by).count() == 3


@pytest.mark.parametrize("way", ["up", "down"])
def test_what_was_sold_for_one_direction_ends_by_it_alone(way: str):
    rental = rental_of("stop", None)
    rental.spans.update(**{"upload_quota_bytes" if way == "up" else "download_quota_bytes": 5 * GB})
    use(rental, **{"up": 900 * GB, "down": 900 * GB} | {way: 4 * GB})
    assert judged(rental).traffic_state == "near"
    use(rental, **{"up": 0, "down": 0} | {way: 5 * GB})
    assert judged(rental).stopped_at is not None
    assert told(rental) == ["traffic_near", "traffic_over"]
    assert Notice.objects.latest("pk").context["way"] == way


def test_a_relays_own_end_stops_it_alone_and_keeps_its_place():
    ServerFactory.create_batch(3, healthy=True)
    rental = rental_of("nothing", None)
    relay = rental.relays.get(slot=2)
    caps = {"cap_down_bytes": 5 * GB, "cap_at_quota": "stop"}
    set_relay_limits(relay=relay, caps=caps, note="", by=admin())
    use(rental, 99 * GB, 4 * GB, slot=2)
    assert judged(rental).traffic_state == "fine"
    assert told(rental) == ["traffic_near"]
    before = ways(rental)
    use(rental, 99 * GB, 5 * GB, slot=2)
    assert judged(rental).stopped_at is None
    apply(rental)
    apply(rental)
    assert running(rental) == [1, 3]
    assert "customers_without_relays" not in {matter.key for matter in matters(timezone.now())}
    assert told(rental) == ["traffic_near", "traffic_over"]
    set_relay_limits(relay=relay, caps={"cap_down_bytes": 6 * GB}, note="", by=admin())
    judged(rental)
    apply(rental)
    assert ways(rental) == before


def test_a_successor_goes_on_with_what_its_predecessor_used():
    servers = ServerFactory.create_batch(2, healthy=True)
    rental = rental_of("nothing", None)
    old, by = rental.relays.get(slot=2), admin()
    set_relay_limits(relay=old, caps={"cap_both_bytes": 10 * GB, "cap_at_quota": "stop"}, note="", by=by)
    use(rental, 6 * GB, 2 * GB, slot=2)
    judged(rental)
    made = allocate_relay(rental=rental, server=servers[0], relay=old, by=by)
    # Said while both stand, it counts for both.
    set_relay_limits(relay=old, caps={"cap_both_bytes": 9 * GB}, note="", by=by)
    apply(rental)
    assert rental.relays.get(slot=2).pk == made.pk
    assert judged(rental).relays.get(pk=made.pk).traffic_state == "near"
    use(rental, 1 * GB, slot=2)
    judged(rental)
    apply(rental)
    # The one that retires carries nothing any more either.
    assert sorted(rental.relays.live().values_list("slot", flat=True)) == [1, 3]
    assert told(rental) == ["traffic_near", "traffic_over"]
    set_relay_limits(relay=made, caps={"cap_both_bytes": None}, note="", by=by)
    judged(rental)
    apply(rental)
    assert rental.relays.get(slot=2).pk == made.pk


def test_a_relay_in_an_empty_place_goes_on_with_what_the_one_before_it_had_and_used():
    servers = ServerFactory.create_batch(2, healthy=True)
    rental = rental_of("nothing", None)
    old = rental.relays.get(slot=2)
    set_relay_limits(relay=old, caps={"cap_up_bytes": 10 * GB, "cap_at_quota": "throttle"}, note="", by=None)
    use(rental, 10 * GB, slot=2)
    # It never came up, so another one is made in its stead.
    Relay.objects.filter(pk=old.pk).update(proven_at=None)
    made = allocate_relay(rental=rental, server=servers[0], relay=old, by=None)
    assert (made.slot, made.replaces) == (2, None)
    judged(rental)
    made.refresh_from_db()
    assert (made.traffic_state, made.rate) == ("over", settings.LIFELINE_RATE)
    assert Relay.objects.get(slot=1).rate is None


def test_places_of_relays_from_before_are_known():
    rental = rental_of()
    first, second = rental.relays.get(slot=2), RelayFactory(rental=rental, slot=None)
    third, stray = RelayFactory(rental=rental, slot=None), RelayFactory(rental=rental, slot=None)
    Relay.objects.filter(pk=second.pk).update(replaces=first)
    Relay.objects.filter(pk=third.pk).update(replaces=second)
    Relay.objects.filter(pk=first.pk).update(slot=None)
    Relay.objects.filter(pk=second.pk).update(slot=2)
    Relay.objects.update(place=None)
    import_module("containers.migrations.0017_place").know_places(apps, None)
    assert {Relay.objects.get(pk=relay.pk).place for relay in (first, second, third)} == {2}
    assert Relay.objects.get(pk=stray.pk).place is None


def test_a_pause_is_left_alone_and_a_second_look_changes_nothing():
    rental = rental_of()
    services.pause_rental(rental=rental, by=None)
    use(rental, 200 * GB)
    assert judged(rental).traffic_state == "fine"
    services.resume_rental(rental=Rental.objects.get(pk=rental.pk), by=None)
    assert judged(rental).stopped_at
    # The time that passes now is not given back.
    apply(rental)
    services.pause_rental(rental=Rental.objects.get(pk=rental.pk), by=None)
    services.resume_rental(rental=Rental.objects.get(pk=rental.pk), by=None)
    assert judged(rental).waiting_since is None
    at = Rental.objects.get(pk=rental.pk).stopped_at
    assert judged(rental).stopped_at == at


def test_a_look_costs_the_same_for_many(django_assert_max_num_queries):
    for _number in range(6):
        use(rental_of(), 90 * GB)
    judge_rentals()
    with django_assert_max_num_queries(5):
        judge_rentals()
    assert Notice.objects.filter(kind="traffic_near").count() == 6


def test_time_in_which_a_customer_is_stopped_is_not_given_back():
    rental = rental_of()
    Rental.objects.filter(pk=rental.pk).update(waiting_since=timezone.now() - timedelta(hours=1))
    use(rental, 200 * GB)
    assert judged(rental).waiting_since is None


def test_a_device_limit_of_the_customers_goes_before_what_was_sold():
    rental = rental_of()
    assert device_limit(rental, timezone.now()) == 20
    services.set_limits(rental=rental, caps={"cap_devices": 3}, note="", by=None)
    assert device_limit(Rental.objects.get(pk=rental.pk), timezone.now()) == 3
    assert foresee(rental=judged(rental), node_key="a" * 64, now=timezone.now()).reason != "used_up"
    use(rental, 200 * GB)
    assert foresee(rental=judged(rental), node_key="a" * 64, now=timezone.now()).reason == "used_up"
