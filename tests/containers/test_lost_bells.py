"""What somebody asked for while the queue's Redis was away is done once it is back: the rows say that it is owed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import django_rq
import pytest
import redis
from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from containers import jobs
from containers.models import Relay, ServerCheck
from derpmgmt.lib import bells
from fleet import services
from fleet.models import Server
from tests.factories import RelayFactory, RentalFactory, ServerFactory
from tests.panel.world import enter

pytestmark = pytest.mark.django_db(transaction=True)

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMsR3OZ7fGkGzdEVQgZ3Y9xWQSWo3v3Yh2n9r1n6Kq0p"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMsR3OZ7fGkGzdEVQgZ3Y9xWQSWo3v3Yh2n9r1n6Kq0q"


@contextmanager
def redis_away() -> Iterator[None]:
    """Nobody answers where the queue's Redis should be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bells, "client", lambda: redis.Redis(port=1, retry=Retry(NoBackoff(), 0)))
        yield


def rung(*names: str) -> list[tuple[str, int]]:
    """The jobs in these queues, with what they are about."""
    return [
        (job.func_name.rpartition(".")[2], job.args[0])
        for name in names
        for job in django_rq.get_queue(name).jobs
    ]


def checks_rung(server: Server) -> list[tuple[str, int]]:
    jobs.sweep()
    return rung(*(f"apply-{shard}" for shard in range(settings.SHARDS)))


@pytest.fixture
def server() -> Server:
    made = ServerFactory()
    Server.objects.filter(pk=made.pk).update(status=Server.Status.NEW, host_key="")
    made.refresh_from_db()
    return made


def confirm(server: Server, line: str = LINE) -> None:
    before = rung("default")
    with redis_away():
        services.confirm_host_key(server=server, line=line, by=None)
    assert rung("default") == before


def test_a_host_key_that_was_confirmed_on_the_page_has_the_server_checked(server: Server) -> None:
    client = enter("admin", has_factor=True)
    with redis_away():
        answer = client.post(reverse("admin:fleet_server_host_key", args=[server.pk]), {"line": LINE})
    assert answer.status_code == 302
    assert not ServerCheck.objects.exists()
    assert checks_rung(server) == [("check_server", server.pk)]
    assert ServerCheck.objects.get().status == "queued"
    # Once, however often the clock rings.
    ServerCheck.objects.get().claim()
    ServerCheck.objects.get().finish("failed")
    jobs.sweep()
    assert ServerCheck.objects.count() == 1


def test_a_bell_that_comes_after_the_sweep_makes_no_second_check(server: Server) -> None:
    services.confirm_host_key(server=server, line=LINE, by=None)
    assert rung("default") == [("request_check", server.pk)]
    jobs.sweep()
    ServerCheck.objects.get().claim()
    ServerCheck.objects.get().finish("done")
    jobs.request_check(server.pk)
    assert ServerCheck.objects.count() == 1


def test_another_host_key_of_a_server_that_was_checked_before_has_it_checked_again(server: Server) -> None:
    services.confirm_host_key(server=server, line=LINE, by=None)
    jobs.request_check(server.pk)
    ServerCheck.objects.get().claim()
    confirm(server, OTHER)
    # The check under way may have read the former key: it ends first.
    jobs.sweep()
    assert ServerCheck.objects.count() == 1
    ServerCheck.objects.get().finish("failed")
    assert checks_rung(server)[-1] == ("check_server", server.pk)
    assert list(ServerCheck.objects.order_by("pk").values_list("status", flat=True)) == ["failed", "queued"]


def test_a_check_that_somebody_asks_for_is_the_one_that_was_due(server: Server) -> None:
    from containers.services.checks import request_check

    confirm(server)
    request_check(server_pk=server.pk)
    ServerCheck.objects.get().claim()
    ServerCheck.objects.get().finish("done")
    jobs.sweep()
    assert ServerCheck.objects.count() == 1


def test_a_server_that_was_retired_meanwhile_is_not_checked(server: Server) -> None:
    confirm(server)
    services.retire_server(server=server, by=None)
    jobs.sweep()
    assert not ServerCheck.objects.exists()


def test_a_test_that_a_customer_asked_for_is_made_by_the_next_round(server: Server) -> None:
    from containers.services.proving import claim_due
    from containers.services.relay_requests import ask_probe

    relay = RelayFactory(rental=RentalFactory(), server=server)
    now = timezone.now()
    Relay.objects.update(status=Relay.Status.RUNNING, proven_at=now, prove_after=now + timedelta(minutes=9))
    with redis_away():
        assert ask_probe(relay=relay, now=now)
    assert rung("slow") == []
    # Whoever was rung for has ten seconds; the page waits for thirty.
    assert claim_due(now + timedelta(seconds=9), 10) == []
    assert [row.pk for row in claim_due(now + timedelta(seconds=11), 10)] == [relay.pk]


def test_a_test_that_was_made_is_not_made_again_by_the_next_round(server: Server) -> None:
    from containers.derp.probe import ProbeResult
    from containers.services.proving import claim_due
    from containers.services.relay_requests import ask_probe
    from containers.services.relays import record_probe

    relay = RelayFactory(rental=RentalFactory(), server=server)
    now = timezone.now()
    Relay.objects.update(status=Relay.Status.RUNNING, proven_at=now, prove_after=now + timedelta(minutes=9))
    ask_probe(relay=relay, now=now)
    record_probe(relay=relay, result=ProbeResult(ok=True))
    assert claim_due(now + timedelta(seconds=11), 10) == []
