"""What every room stands on: the queue's bells, job rows, encrypted fields, keys."""

from datetime import timedelta

import django_rq
import pytest
import redis
from cryptography.fernet import Fernet
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from containers import jobs
from containers.models import ServerCheck
from containers.services.checks import end_lost_checks, request_check
from derpmgmt import flow
from derpmgmt.lib import bells, crypto, keys, queue
from derpmgmt.lib.jobs import LOST_AFTER, Heartbeat
from fleet.models import Server, SshCredential
from tests.factories import ServerFactory


@pytest.fixture
def server(db: None) -> Server:
    return ServerFactory(name="s", credential__private_key="secret-text")


def queued() -> list[tuple[str, str, tuple[int, ...]]]:
    found = []
    for name in ("default", "slow", *(f"apply-{k}" for k in range(3))):
        found += [(name, job.func_name, job.args) for job in django_rq.get_queue(name).jobs]
    return found


@pytest.mark.django_db(transaction=True)
def test_a_bell_rings_only_after_commit():
    with transaction.atomic():
        queue.announce("rental_relays_changed", 7)
        assert queued() == []
    assert queued() == [("default", "acl.maps.jobs.refresh_acl", (7,))]


@pytest.mark.django_db(transaction=True)
def test_a_bell_that_was_rolled_back_never_rings():
    with transaction.atomic():
        queue.announce("rental_relays_changed", 7)
        transaction.set_rollback(True)
    assert queued() == []


@pytest.mark.django_db(transaction=True)
def test_a_sweep_does_not_ring_again_while_its_last_ring_waits():
    for _time in range(3):
        queue.enqueue(jobs.plan_rental, 5, is_again=True)
    queue.enqueue(jobs.plan_rental, 6, is_again=True)
    assert [args for _queue, _job, args in queued()] == [(5,), (6,)]


@pytest.mark.django_db(transaction=True)
def test_a_redis_that_is_away_costs_the_bell_and_nothing_else(caplog, monkeypatch):
    away = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(bells, "client", lambda: away)
    queue.announce("rental_relays_changed", 7)
    queue.enqueue(jobs.plan_rental, 5, is_again=True)
    assert caplog.text.count("the sweep will ring again") == 2


def test_an_unknown_fact_is_a_mistake():
    with pytest.raises(KeyError):
        queue.announce("no_such_fact", 1)


def test_every_bell_and_tick_leads_to_a_job_that_can_be_found_by_name():
    from rq.utils import import_attribute

    for rung_for in flow.JOBS.values():
        for job in rung_for:
            assert import_attribute(f"{job.__module__}.{job.__name__}") is job
    for tick in flow.CRON:
        assert import_attribute(f"{tick.job.__module__}.{tick.job.__name__}") is tick.job


def test_a_job_is_found_when_it_was_queued_before_its_room_was_divided():
    from rq.utils import import_attribute

    queued = [job for rung_for in flow.JOBS.values() for job in rung_for] + [tick.job for tick in flow.CRON]
    relays = [job for job in queued if job.__module__.startswith("containers.")]
    assert len(relays) > 10
    for job in relays:
        assert import_attribute(f"containers.jobs.{job.__name__}") is job


def test_only_one_of_two_workers_gets_a_job(server):
    check = request_check(server_pk=server.pk)
    twin = ServerCheck.objects.get(pk=check.pk)
    assert check.claim()
    assert not twin.claim()


def test_a_second_request_gives_the_open_check(server):
    assert request_check(server_pk=server.pk).pk == request_check(server_pk=server.pk).pk
    assert ServerCheck.objects.count() == 1


def test_a_dead_workers_job_is_closed_and_asked_for_anew(server):
    check = request_check(server_pk=server.pk)
    check.claim()
    end_lost_checks(timezone.now())
    assert ServerCheck.objects.get().status == "running"
    end_lost_checks(timezone.now() + LOST_AFTER + timedelta(seconds=1))
    assert list(ServerCheck.objects.order_by("pk").values_list("status", flat=True)) == ["lost", "queued"]
    # The one that was held for dead finds out with the next thing it writes.
    assert not check.write("I live")
    assert not check.finish("done")


def test_the_log_keeps_lines_in_order_with_their_steps(server):
    check = request_check(server_pk=server.pk)
    check.claim()
    check.write("one", step="connect")
    check.write("two\nlines\tand a tab")
    check.refresh_from_db()
    assert [line[1:] for line in check.log_lines()] == [
        ("connect", "one"),
        ("connect", "two lines and a tab"),
    ]


@pytest.mark.django_db(transaction=True)
def test_a_heartbeat_beats_while_work_sits_in_a_long_call(server, monkeypatch):
    import time

    from derpmgmt.lib import jobs as lib_jobs

    monkeypatch.setattr(lib_jobs, "HEARTBEAT_EVERY", timedelta(milliseconds=20))
    check = request_check(server_pk=server.pk)
    check.claim()
    before = check.heartbeat_at
    with Heartbeat(check.beat):
        time.sleep(0.2)
    check.refresh_from_db()
    assert check.heartbeat_at > before


def test_the_database_never_sees_a_secret(server):
    with connection.cursor() as cursor:
        cursor.execute("SELECT private_key, password FROM fleet_sshcredential")
        stored, empty = cursor.fetchone()
    assert "secret-text" not in stored
    assert empty == ""
    assert SshCredential.objects.get().private_key == "secret-text"


def test_a_wrong_key_reads_nothing(server, settings):
    settings.FIELD_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(crypto.DecryptionFailed):
        SshCredential.objects.get()


def test_an_older_key_still_reads_when_a_newer_one_was_added(server, settings):
    settings.FIELD_KEYS = [Fernet.generate_key().decode(), *settings.FIELD_KEYS]
    assert SshCredential.objects.get().private_key == "secret-text"


def test_an_encrypted_field_refuses_to_be_looked_up(db):
    with pytest.raises(FieldError):
        SshCredential.objects.filter(private_key="secret-text").exists()


def test_keys_are_made_once_and_kept_private(tmp_path):
    first = keys.load_keys(tmp_path, has_database=False)
    again = keys.load_keys(tmp_path, has_database=True)
    assert (first.django, first.fields, first.lookup, first.panel_id) == (
        again.django,
        again.fields,
        again.lookup,
        again.panel_id,
    )
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert first.lookup not in repr(first)


def test_a_database_without_its_keys_is_refused(tmp_path):
    keys.load_keys(tmp_path, has_database=False)
    (tmp_path / "keys" / "fields").unlink()
    with pytest.raises(ImproperlyConfigured, match="fields"):
        keys.load_keys(tmp_path, has_database=True)
