"""The operators' commands, with a stand-in for the workers that make relays."""

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import User
from containers.models import Relay
from derpmgmt.lib.jobs import Problem
from derpmgmt.management.commands import serial_redeem
from fleet.models import Server
from serials.numbers import codes, services
from serials.numbers.models import SerialBatch
from serials.rentals.models import Redemption, Rental
from tests.factories import DeploymentFactory, RelayFactory, SerialNumberFactory

pytestmark = pytest.mark.usefixtures("english")


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_serials_can_be_redeemed_when_the_command_printed_them(db: None) -> None:
    rows = json.loads(
        run("serials_create", "--days", "30", "--count", "3", "--redeem-by", "2099-12-31", "--json")[0]
    )
    assert len({row["code"] for row in rows}) == 3
    for row in rows:
        serial = services.find_serial(row["code"])
        assert (serial.batch.days, serial.batch.redeem_by.isoformat()) == (30, row["redeem_by"])  # type: ignore[union-attr]
    table = run("serials_create", "--days", "7")[0].splitlines()
    assert len(table) == 2
    assert services.find_serial(table[1].split()[0]).batch.days == 7


def test_the_command_sells_what_its_options_say(db: None) -> None:
    options = "--traffic 500 --up 100.5 --down 400 --rate 20 --devices 5 --at-quota stop"
    run("serials_create", "--days", "30", *options.split())
    batch = SerialBatch.objects.get()
    assert (batch.quota_bytes, batch.upload_quota_bytes, batch.download_quota_bytes) == (
        500 * 10**9,
        100_500 * 10**6,
        400 * 10**9,
    )
    assert (batch.rate_bytes_per_second, batch.device_limit, batch.at_quota) == (2_500_000, 5, "stop")
    for wrong in ("--up 0.9", "--down -1", "--at-quota explode"):
        with pytest.raises(CommandError):
            run("serials_create", "--days", "30", *wrong.split())
    assert SerialBatch.objects.count() == 1


def test_a_batch_without_a_name_is_called_by_what_it_gives(db: None) -> None:
    for days, name in (("1", "2 × 1 day"), ("30", "2 × 30 days")):
        run("serials_create", "--days", days, "--count", "2")
        assert SerialBatch.objects.latest("pk").name == name


def test_a_day_that_is_none_is_refused_with_a_sentence(db: None) -> None:
    with pytest.raises(CommandError, match="looks like 2026-12-31") as refused:
        run("serials_create", "--days", "1", "--redeem-by", "2026-02-30")
    assert refused.value.returncode == 1


def test_batch_is_bound_and_unpaid_when_the_command_says_so(servers: list[Server]) -> None:
    run(
        "serials_create",
        "--days",
        "1",
        "--unpaid",
        "--name",
        "trial",
        "--server",
        *(server.name for server in servers[:3]),
    )
    batch = SerialBatch.objects.get()
    assert (batch.name, batch.is_paid, set(batch.servers.all())) == ("trial", False, set(servers[:3]))


@pytest.mark.parametrize(
    "wrong", [["--days", "0"], ["--days", "1", "--server", "nowhere"], ["--days", "1", "--count", "10001"]]
)
def test_command_says_why_when_a_batch_is_wrong(db: None, wrong: list[str]) -> None:
    with pytest.raises(CommandError, match=r"\S"):
        run("serials_create", *wrong)
    assert not SerialBatch.objects.exists()


def test_rental_moves_when_the_command_does_not_wait(customer: User) -> None:
    serial = SerialNumberFactory(days=3)
    shown = json.loads(
        run("serial_redeem", "LI@example.com", codes.group(serial.code), "--no-wait", "--json")[0]
    )
    assert (shown["days"], shown["relays"]) == (3, [])
    assert datetime.fromisoformat(shown["ends_at"]) == Rental.objects.get(user=customer).ends_at


def test_code_is_read_from_standard_input_when_it_is_a_dash(
    customer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(SerialNumberFactory().code + "\n"))
    run("serial_redeem", "li@example.com", "-", "--no-wait")
    assert Redemption.objects.count() == 1


def test_command_fails_with_the_reason_when_the_code_or_address_is_wrong(customer: User) -> None:
    with pytest.raises(CommandError) as refused:
        run("serial_redeem", "li@example.com", codes.generate())
    assert str(refused.value) == str(services.SerialUnknown())
    with pytest.raises(CommandError, match=r"nobody@example\.com"):
        run("serial_redeem", "nobody@example.com", codes.generate())


def _told(err: str) -> list[str]:
    """What was told of the steps, without their times, which must be there."""
    lines = err.splitlines()
    assert all(re.fullmatch(r".*: step \d|.* · \d+\.\d s", line) for line in lines)
    return [line.partition(" · ")[0] for line in lines]


def _work(act: Callable[[Rental], None]) -> threading.Thread:
    """Does what the workers do once there is a rental, in a thread of its own."""

    def wait_and_act() -> None:
        try:
            while not (rental := Rental.objects.filter(ends_at__isnull=False).first()):
                time.sleep(0.02)
            act(rental)
        finally:
            connection.close()

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    return thread


def _make_relays(servers: list[Server], rental: Rental) -> None:
    for slot, server in enumerate(servers[:3], 1):
        relay = RelayFactory(rental=rental, server=server, slot=slot, planned=True)
        deployment = DeploymentFactory(relay=relay)
        deployment.claim()
        deployment.write(f"step {slot}", step="start")
        deployment.finish("done")
        Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.RUNNING)


@pytest.mark.django_db
def test_command_tells_every_step_when_the_last_come_just_before_the_end(
    customer: User, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = serial_redeem.Command._tell_progress

    def tell_and_go_on(command: serial_redeem.Command, rental: Rental) -> None:
        tell(command, rental)
        if not rental.relays.exists():
            _make_relays(servers, rental)

    monkeypatch.setattr(serial_redeem.Command, "_tell_progress", tell_and_go_on)
    _out, err = run("serial_redeem", "li@example.com", SerialNumberFactory().code, "--json")
    assert _told(err) == [
        line
        for n, server in enumerate(servers[:3], 1)
        for line in (f"{server.name}: Start", f"{server.name}: step {n}")
    ]


@pytest.mark.django_db(transaction=True)
def test_command_ends_when_three_relays_are_proven(customer: User, servers: list[Server]) -> None:
    serial = SerialNumberFactory()
    thread = _work(partial(_make_relays, servers))
    out, err = run("serial_redeem", "li@example.com", serial.code, "--json")
    thread.join()
    shown = json.loads(out)
    assert shown["running"] == 3
    assert [relay["status"] for relay in shown["relays"]] == ["running"] * 3
    assert set(_told(err)) == {
        line
        for n, server in enumerate(servers[:3], 1)
        for line in (f"{server.name}: Start", f"{server.name}: step {n}")
    }


@pytest.mark.django_db(transaction=True)
def test_command_fails_with_the_host_s_reason_when_time_is_over(
    customer: User, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_redeem, "WAIT_SECONDS", 2.0)

    def fail(rental: Rental) -> None:
        deployment = DeploymentFactory(relay=RelayFactory(rental=rental, server=servers[0], planned=True))
        deployment.claim()
        deployment.finish(
            "failed", Problem("disk_full", "The disk of %(server)s is full.", {"server": "sh-1"})
        )

    thread = _work(fail)
    with pytest.raises(CommandError, match=r"Relays running: 0 of 3\.\nsh-1: The disk of sh-1 is full"):
        run("serial_redeem", "li@example.com", SerialNumberFactory().code)
    thread.join()
    assert Redemption.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_command_says_so_when_there_are_too_few_servers(
    customer: User, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_redeem, "SETTLED_SECONDS", 0.5)
    thread = _work(lambda rental: RelayFactory(rental=rental, server=servers[0]) and None)
    with pytest.raises(CommandError, match=r"Relays running: 1 of 3\.\nNo further server is usable"):
        run("serial_redeem", "li@example.com", SerialNumberFactory().code)
    thread.join()
