"""Servers whose traffic runs out: who is warned, what stops, where nothing new comes, and when it is back."""

from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import Notice, OperationLog
from containers.jobs.allowances import judge_server, judge_servers
from containers.metering import month_begin
from containers.models import Relay
from containers.services.planning import plan_relays
from containers.traffic_models import TrafficDay, TrafficServerMonth
from fleet.forms import ServerForm
from fleet.matters import matters
from fleet.models import Server
from fleet.services import update_server
from tests.containers.dying import Died, die_at
from tests.containers.rentals import end, prove, set_end
from tests.factories import RelayFactory, RentalFactory, ServerFactory

pytestmark = pytest.mark.django_db
GB = 10**9


@pytest.fixture
def server() -> Server:
    return ServerFactory(healthy=True, traffic_limit_bytes=1000 * GB, traffic_reset_day=reset_day())


def reset_day() -> int:
    """Ten days from now, so that there is time in which it can run out."""
    return (timezone.localdate() + timedelta(days=10)).day


def relay_on(server: Server, gb_a_day: int) -> Relay:
    """A customer's relay that carries as much each day."""
    relay = RelayFactory(rental=RentalFactory(), server=server, stun_port=20500 + Relay.objects.count())
    today = timezone.localdate()
    for number in range(1, 29):
        TrafficDay.objects.create(relay=relay, day=today - timedelta(days=number), up_bytes=gb_a_day * GB)
    return relay


def use(server: Server, gb: float) -> None:
    now = timezone.now()
    TrafficServerMonth.objects.filter(server=server).delete()
    TrafficServerMonth.objects.create(
        server=server,
        begins_on=month_begin(server.traffic_reset_day, timezone.localdate()),
        up_bytes=int(gb * GB),
        read_at=now,
    )


def judged(server: Server) -> Server:
    judge_servers()
    judge_servers()
    return Server.objects.get(pk=server.pk)


def levels() -> list[str]:
    """Of the matters of servers' traffic."""
    found = matters(timezone.now())
    return [matter.level for matter in found if matter.key.startswith("server_traffic:")]


def going(server: Server) -> set[int]:
    return set(Relay.objects.filter(server=server, slot__isnull=False).values_list("pk", flat=True))


def test_the_day_on_which_it_runs_out_is_told(server):
    relay_on(server, 50)
    use(server, 400)
    assert judged(server).traffic_runs_out_on is None
    assert levels() == []
    use(server, 800)
    # 200 GB are left, and 50 a day from today on.
    assert judged(server).traffic_runs_out_on == timezone.localdate() + timedelta(days=3)
    assert levels() == ["warning"]
    assert going(server)


def test_at_the_end_the_heaviest_stop_their_customers_hear_of_it_and_nothing_new_comes_there(server):
    heavy, light, idle = relay_on(server, 40), relay_on(server, 4), relay_on(server, 0)
    use(server, 949)
    judged(server)
    assert going(server) == {heavy.pk, light.pk, idle.pk}
    use(server, 955)
    over = judged(server)
    assert over.traffic_over_at
    assert levels() == ["critical"]
    # 45 GB are left for ten days: the light one's 40 of them.
    assert going(server) == {light.pk, idle.pk}
    told = Notice.objects.filter(kind="server_used_up")
    assert [notice.user for notice in told] == [heavy.rental.user]
    assert OperationLog.objects.filter(action="relay.stopped").count() == 1
    ServerFactory(healthy=True)
    plan_relays(rental_pk=heavy.rental_id)
    prove(heavy.rental)
    assert [relay.server_id for relay in heavy.rental.relays.wanted()] != [server.pk]
    assert not heavy.rental.relays.wanted().filter(server=server).exists()
    use(server, 1000)
    judged(server)
    assert going(server) == {idle.pk}


def test_what_flows_today_counts_where_the_past_says_nothing(server):
    """On the last day of the month a relay that was quiet ever since carries what is left, and more."""
    quiet, light = relay_on(server, 0), relay_on(server, 0)
    Server.objects.update(traffic_reset_day=(timezone.localdate() + timedelta(days=1)).day)
    server.refresh_from_db()
    for relay, size in ((quiet, 600), (light, 1)):
        TrafficDay.objects.create(relay=relay, day=timezone.localdate(), up_bytes=size * GB)
    use(server, 1000)
    judged(server)
    assert going(server) == set()


def test_what_goes_already_is_none_that_goes_on(server):
    going_away, heavy = relay_on(server, 3), relay_on(server, 4)
    Relay.objects.filter(pk=going_away.pk).update(slot=None, status=Relay.Status.REMOVING)
    use(server, 955)
    judged(server)
    # 45 GB are left for ten days of 4 GB each.
    assert going(server) == {heavy.pk}
    assert not Notice.objects.filter(kind="server_used_up").exists()


def test_one_that_retires_stops_without_a_word_since_another_has_its_place(server):
    relay = relay_on(server, 40)
    Relay.objects.filter(pk=relay.pk).update(slot=None, retiring_since=timezone.now())
    use(server, 1000)
    judged(server)
    assert Relay.objects.get(pk=relay.pk).status == Relay.Status.REMOVING
    assert not Notice.objects.filter(kind="server_used_up").exists()


def test_another_limit_is_felt_without_waiting_for_the_clock(server, announced):
    update_server(server=server, by=None, traffic_limit_bytes=2000 * GB)
    assert announced == [("server_limits_changed", server.pk)]
    announced.clear()
    update_server(server=server, by=None, customer_limit=5)
    assert announced == [("server_usable", server.pk)]
    relay = relay_on(server, 40)
    use(server, 2000)
    judge_server(server.pk)
    assert going(server) == set()
    assert relay.rental.user.notices.filter(kind="server_used_up").exists()


def test_it_ends_the_same_wherever_it_dies(server):
    heavy, light = relay_on(server, 40), relay_on(server, 4)
    use(server, 955)
    for write in range(12):
        with transaction.atomic():
            with suppress(Died), connection.execute_wrapper(die_at(write)):
                judge_servers()
            judged(server)
            assert going(server) == {light.pk}
            told = Notice.objects.filter(kind="server_used_up")
            assert [(notice.user, notice.channel) for notice in told] == [(heavy.rental.user, "email")]
            actions = OperationLog.objects.filter(action__in=["server.traffic_over", "relay.stopped"])
            assert sorted(actions.values_list("action", flat=True)) == [
                "relay.stopped",
                "server.traffic_over",
            ]
            transaction.set_rollback(True)


def raise_limit(server: Server) -> None:
    Server.objects.filter(pk=server.pk).update(traffic_limit_bytes=2000 * GB)


def begin_month(server: Server) -> None:
    TrafficServerMonth.objects.update(begins_on=F("begins_on") - timedelta(days=31))


@pytest.mark.parametrize("give_more", [raise_limit, begin_month])
def test_with_the_next_month_or_a_higher_limit_relays_come_back(server, give_more, announced):
    relay = relay_on(server, 40)
    use(server, 1000)
    judged(server)
    plan_relays(rental_pk=relay.rental_id)
    prove(relay.rental)
    assert not Relay.objects.live().filter(rental=relay.rental).exists()
    give_more(server)
    announced.clear()
    assert judged(server).traffic_over_at is None
    # Also for those who wait for room.
    assert ("server_usable", server.pk) in announced
    plan_relays(rental_pk=relay.rental_id)
    prove(relay.rental)
    assert going(server) == {relay.pk}


@pytest.mark.parametrize(
    "full",
    [
        {"customer_limit": 1},
        {"capacity": 1},
        {"load_ratio": 1000.0},
        {"memory_share": 0.99, "memory_bytes": 10**9},
        {"traffic_limit_bytes": 1},
    ],
)
def test_nothing_comes_back_to_a_server_that_has_no_room_for_it(full, announced):
    first = ServerFactory(healthy=True)
    rental = RentalFactory()
    plan_relays(rental_pk=rental.pk)
    prove(rental)
    end(rental)
    RelayFactory(rental=RentalFactory(), server=first, stun_port=20777)
    TrafficServerMonth.objects.create(
        server=first, begins_on=month_begin(1, timezone.localdate()), up_bytes=1, read_at=timezone.now()
    )
    set_end(rental, timezone.now() + timedelta(days=30))
    Server.objects.filter(pk=first.pk).update(**full)
    plan_relays(rental_pk=rental.pk)
    assert going(first) == {Relay.objects.get(stun_port=20777).pk}
    other = ServerFactory(healthy=True)
    plan_relays(rental_pk=rental.pk)
    assert [relay.server for relay in rental.relays.wanted()] == [other]
    # It waits no longer for its place there.
    assert not rental.relays.filter(return_slot=1).exists()


def test_a_server_holds_no_more_customers_than_it_may():
    servers = ServerFactory.create_batch(3, healthy=True, customer_limit=1)
    first, second = RentalFactory(), RentalFactory()
    plan_relays(rental_pk=first.pk)
    plan_relays(rental_pk=second.pk)
    assert {relay.server_id for relay in first.relays.all()} == {server.pk for server in servers}
    assert not second.relays.exists()


def test_operators_fill_the_limit_in_in_gb(server):
    form = ServerForm(instance=server)
    assert form["traffic_limit_bytes"].value() == 1000
    data = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    filled = ServerForm(data | {"traffic_limit_bytes": "1.5", "customer_limit": "7"}, instance=server)
    assert filled.is_valid(), filled.errors
    assert filled.cleaned_data["traffic_limit_bytes"] == 1_500_000_000
    assert ServerForm(data | {"traffic_limit_bytes": "-1"}, instance=server).errors.keys() == {
        "traffic_limit_bytes"
    }
