"""More traffic is felt at once: the bell of a top-up or a renewal, and the clock's look when a month begins, bring all back through the queue."""

from datetime import timedelta

import django_rq
import pytest
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from containers.jobs.allowances import judge_rentals
from containers.models import Relay
from containers.services.planning import plan_relays
from containers.services.rates import record_rate
from containers.services.traffic import month_of
from containers.traffic_models import TrafficMonth
from serials.rentals import services
from serials.rentals.models import Rental
from tests.containers.rentals import prove, ways
from tests.factories import RentalFactory, ServerFactory

pytestmark = pytest.mark.django_db(transaction=True)
GB = 10**9
# The jobs that decide; no sweep looks on here.
WORK = {"judge_rental", "plan_rental"}


@pytest.fixture(params=["stop", "throttle"])
def rental(request: pytest.FixtureRequest) -> Rental:
    """A customer whose relays run, and who has 100 GB a month."""
    ServerFactory.create_batch(3, healthy=True)
    made = RentalFactory()
    made.spans.update(quota_bytes=100 * GB, at_quota=request.param)
    plan_relays(rental_pk=made.pk)
    prove(made)
    work()
    return made


def work() -> None:
    """Do what was rung for, until nothing is left; what goes to hosts stays in its queue."""
    line = django_rq.get_queue("default")
    while jobs := line.jobs:
        line.empty()
        for job in jobs:
            if job.func_name.rpartition(".")[2] in WORK:
                job.func(*job.args)


def pushed() -> set[int]:
    """The relays whose rate is on its way to their host."""
    lines = [django_rq.get_queue(f"gate-{shard}") for shard in range(settings.SHARDS)]
    found = {job.args[0] for line in lines for job in line.jobs if job.func_name.endswith("push_rate")}
    for line in lines:
        line.empty()
    for relay in Relay.objects.filter(pk__in=found):
        record_rate(relay=relay)
    return found


def use_up(rental: Rental, size: int) -> None:
    """All is used, and that was felt."""
    relay, now = rental.relays.wanted()[0], timezone.now()
    values = {"rental": rental, "up_bytes": size, "read_at": now}
    TrafficMonth.objects.update_or_create(relay=relay, begins_on=month_of(rental, now), defaults=values)
    judge_rentals()
    work()
    prove(rental)
    work()


def top_up(rental: Rental) -> None:
    services.add_traffic(rental=rental, size_bytes=50 * GB, by=None)


def renew(rental: Rental) -> None:
    rental.refresh_from_db()
    services.renew_rental(rental=rental, until=rental.ends_at + timedelta(days=1), by=None)


def begin_month(rental: Rental) -> None:
    TrafficMonth.objects.update(begins_on=F("begins_on") - timedelta(days=40))
    rental.traffic_grants.update(at=F("at") - timedelta(days=40))
    judge_rentals()


def test_all_comes_back_once_there_is_more(rental: Rental) -> None:
    before, at_quota = ways(rental), rental.spans.get().at_quota
    for size, give_more in ((100, top_up), (150, renew), (250, begin_month)):
        use_up(rental, size * GB)
        if at_quota == "stop":
            assert not rental.relays.live().exists()
        else:
            assert pushed() == {way[0] for way in before}
            assert set(rental.relays.values_list("rate", flat=True)) == {settings.LIFELINE_RATE}
        give_more(rental)
        work()
        if at_quota == "throttle":
            assert pushed() == {way[0] for way in before}
            assert set(rental.relays.values_list("rate", flat=True)) == {None}
        assert ways(rental) == before, give_more
        prove(rental)
