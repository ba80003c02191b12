"""What is done to servers: registering, the lease, back-off, maintenance, removal."""

import threading
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import OperationLog
from fleet import services
from fleet.models import CONTACT, ProviderAccount, Region, Server, SshCredential
from fleet.ssh import TimedOut
from tests.factories import RegionFactory, RelayFactory, RentalFactory

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMsR3OZ7fGkGzdEVQgZ3Y9xWQSWo3v3Yh2n9r1n6Kq0p"


@pytest.fixture
def credential(db: None) -> SshCredential:
    return services.save_credential(name="key", username="root", private_key="x", by=None)


@pytest.fixture
def region(db: None) -> Region:
    return RegionFactory()


@pytest.fixture
def server(credential: SshCredential, region: Region) -> Server:
    return services.create_server(
        by=None, name="one", region=region, address="203.0.113.1", credential=credential
    )


def test_a_server_is_unusable_before_it_was_checked(server):
    assert server.status == Server.Status.NEW
    assert not Server.objects.usable().exists()
    services.confirm_host_key(server=server, line=LINE, by=None)
    assert not Server.objects.usable().exists()
    assert services.accept_server(server=server)
    assert Server.objects.usable().get() == server


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "203.0.113.1"},
        {"name": "one"},
        {"address": "2001:db8::1"},
        {"address": "not an address"},
        {"tcp_port_first": 20000, "tcp_port_last": 19999},
        {"udp_port_last": 70000},
        {"ssh_port": 0},
    ],
)
def test_a_wrong_registration_is_refused_with_words(server, credential, region, wrong):
    values = {"name": "two", "address": "203.0.113.2", **wrong}
    with pytest.raises(ValidationError) as refusal:
        services.create_server(by=None, region=region, credential=credential, **values)
    assert all(len(message) > 5 for message in refusal.value.messages)
    assert Server.objects.count() == 1


def test_what_is_no_host_key_is_not_pinned(server):
    with pytest.raises(ValueError, match="not a public key line"):
        services.confirm_host_key(server=server, line="ssh-ed25519 nonsense", by=None)
    server.refresh_from_db()
    assert server.host_key == ""


def test_a_retired_servers_name_and_address_are_free_again(server, credential, region):
    services.retire_server(server=server, by=None)
    server.refresh_from_db()
    assert server.status == Server.Status.RETIRED
    again = services.create_server(
        by=None, name="one", region=region, address="203.0.113.1", credential=credential
    )
    services.retire_server(server=again, by=None)
    assert Server.objects.filter(status="retired", address="203.0.113.1").count() == 2


def test_a_server_with_relays_is_not_removed(server, django_user_model):

    RelayFactory(rental=RentalFactory(), server=server)
    with pytest.raises(services.ServerNotEmpty):
        services.retire_server(server=server, by=None)
    server.refresh_from_db()
    assert server.status == Server.Status.NEW


def test_maintenance_takes_a_server_out_of_placement_and_back(server):
    services.confirm_host_key(server=server, line=LINE, by=None)
    services.accept_server(server=server)
    services.start_maintenance(server=server, by=None, reason="new disk")
    assert not Server.objects.usable().exists()
    assert Server.objects.managed().exists()
    with pytest.raises(services.WrongState):
        services.start_maintenance(server=server, by=None)
    services.end_maintenance(server=server, by=None)
    assert Server.objects.usable().exists()
    with pytest.raises(services.WrongState):
        services.end_maintenance(server=server, by=None)


def test_pauses_double_up_to_five_minutes_and_end_with_the_first_answer(server):
    Server.objects.update(status=Server.Status.HEALTHY)
    pauses = []
    for _time in range(8):
        before = timezone.now()
        services.record_failed_contact(server_pk=server.pk, error=TimedOut())
        server.refresh_from_db()
        pauses.append(round((server.next_contact_at - before).total_seconds()))
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == CONTACT.longest.total_seconds()
    assert server.status == Server.Status.UNHEALTHY
    assert (server.status_code, server.status_reason) == ("timed_out", "")
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert (server.status, server.contact_failures, server.next_contact_at) == ("healthy", 0, None)


def test_a_server_that_answers_with_a_fault_is_unhealthy_for_that_until_it_is_over(server):
    Server.objects.update(status=Server.Status.HEALTHY)
    for _time in range(2):
        services.record_failed_contact(server_pk=server.pk, error=TimedOut())
    services.record_fault(server_pk=server.pk, code="list_not_taken", sentence="Its gate sulks.")
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert (server.status, server.status_reason) == ("unhealthy", "Its gate sulks.")
    services.clear_fault(server_pk=server.pk, code="another")
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert server.status == "unhealthy"
    services.clear_fault(server_pk=server.pk, code="list_not_taken")
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert (server.status, server.status_reason) == ("healthy", "")


def test_a_server_in_maintenance_stays_so_whatever_its_contacts_do(server):
    Server.objects.update(status=Server.Status.MAINTENANCE)
    for _time in range(3):
        services.record_failed_contact(server_pk=server.pk, error=TimedOut())
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert server.status == Server.Status.MAINTENANCE


def test_one_worker_at_a_time_holds_the_lease(server):
    with services.lease(server.pk, "a") as first:
        with services.lease(server.pk, "b") as second:
            assert (first, second) == (True, False)
        # The one that was refused did not take it away when it left.
        assert not services.renew_lease(server_pk=server.pk, holder="b")
        assert services.renew_lease(server_pk=server.pk, holder="a")
    assert services.renew_lease(server_pk=server.pk, holder="b")


def test_a_dead_workers_lease_ends_by_itself(server):
    assert services.renew_lease(server_pk=server.pk, holder="dead")
    assert not services.renew_lease(server_pk=server.pk, holder="b")
    Server.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    assert services.renew_lease(server_pk=server.pk, holder="b")


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_at_once_one_gets_the_lease(credential, region):
    made = services.create_server(
        by=None, name="one", region=region, address="203.0.113.1", credential=credential
    )
    barrier, won = threading.Barrier(8), []

    def take(number: int) -> None:
        barrier.wait()
        try:
            won.append(services.renew_lease(server_pk=made.pk, holder=str(number)))
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_changes_are_logged_with_before_and_after(server):
    services.update_server(server=server, by=None, capacity=7, name="one")
    entry = OperationLog.objects.get(action="server.changed")
    assert entry.detail == {"changes": {"capacity": ["50", "7"]}}
    services.update_server(server=server, by=None, capacity=7)
    assert OperationLog.objects.filter(action="server.changed").count() == 1


def test_phone_numbers_are_masked():
    assert ProviderAccount(phone="13812345678").phone_masked == "138••••••78"
    assert ProviderAccount(phone="12345").phone_masked == "•••••"
    assert ProviderAccount(phone="").phone_masked == ""


def test_a_contact_costs_one_write_where_all_is_well_and_mends_what_was_wrong(server: Server) -> None:
    Server.objects.filter(pk=server.pk).update(status=Server.Status.HEALTHY, host_key=LINE)
    with CaptureQueriesContext(connection) as asked:
        services.record_contact(server_pk=server.pk)
    assert sum(query["sql"].startswith("UPDATE") for query in asked) == 1
    for _time in range(2):
        services.record_failed_contact(server_pk=server.pk, error=TimedOut())
    server.refresh_from_db()
    assert (server.status, server.silent_since is None) == (Server.Status.UNHEALTHY, False)
    services.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert (server.status, server.silent_since, server.contact_failures, server.next_contact_at) == (
        Server.Status.HEALTHY,
        None,
        0,
        None,
    )
