"""The operators' commands about devices."""

import json
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone, translation

from accounts.models import OperationLog
from acl.devices import presence, services
from acl.devices.models import Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from serials.numbers import services as serials
from serials.numbers.models import SerialNumber
from serials.rentals.models import Redemption, Rental, RentalSpan
from tests.factories import DeviceFactory, RentalFactory, SerialNumberFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [f"{number:02x}" * 32 for number in range(1, 30)]
A, B, C = KEYS[:3]


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def rental() -> Rental:
    return RentalFactory(days=60)


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def rows(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json")[0])


def fail(*arguments: str) -> tuple[str, int, Any]:
    """The reason, the exit code and the JSON of a command that fails."""
    out = StringIO()
    with pytest.raises(CommandError) as failure:
        call_command(*arguments, "--json", stdout=out, stderr=StringIO())
    return str(failure.value), failure.value.returncode, json.loads(out.getvalue() or "null")


def add(rental: Rental, *devices: NewDevice) -> list[Device]:
    return list(services.add_devices(rental=rental, devices=devices, by=None).added)


def approved(rental: Rental) -> set[str]:
    devices = Device.objects.filter(rental=rental, status=Device.Status.APPROVED)
    return set(devices.values_list("node_key", flat=True))


# device_add


def test_devices_are_let_in_by_their_keys(rental: Rental) -> None:
    found = rows("device_add", rental.user.email.upper(), f"nodekey:{A}", B.upper())
    assert [(row["result"], row["node_key"]) for row in found] == [
        ("added", f"nodekey:{A}"),
        ("added", f"nodekey:{B}"),
    ]
    assert approved(rental) == {A, B}
    assert OperationLog.objects.get(action="device.added").actor is None


def test_a_list_is_read_from_standard_input(rental: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    add(rental, NewDevice(B))
    status = {
        "Self": {"PublicKey": f"nodekey:{A}", "HostName": "nas"},
        "Peer": {"x": {"PublicKey": f"nodekey:{B}", "HostName": "phone"}},
    }
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(json.dumps(status).encode("utf-16"))))
    found = rows("device_add", rental.user.email, "-", f"nodekey:{C}")
    assert {(row["result"], row["name"]) for row in found} == {
        ("added", "nas"),
        ("known", "phone"),
        ("added", ""),
    }
    assert approved(rental) == {A, B, C}


@pytest.mark.parametrize("had", [0, 2])
def test_adding_fails_and_says_which_when_places_are_missing(rental: Rental, had: int) -> None:
    RentalSpan.objects.filter(rental=rental).update(device_limit=2)
    add(rental, *map(NewDevice, KEYS[10 : 10 + had]))
    reason, code, found = fail("device_add", rental.user.email, A, B, C)
    assert [row["result"] for row in found] == ["added"] * (2 - had) + ["left_out"] * (1 + had)
    assert code == 1
    assert "the rental allows 2" in reason
    assert len(approved(rental)) == 2


def test_a_list_leaves_revoked_devices_out_and_says_so(rental: Rental) -> None:
    gone, _here = add(rental, NewDevice(A, "stolen"), NewDevice(C))
    services.revoke_device(device=gone, by=None)
    reason, code, found = fail("device_add", rental.user.email, A, B, C)
    assert [(row["result"], row["node_key"]) for row in found] == [
        ("added", f"nodekey:{B}"),
        ("known", f"nodekey:{C}"),
        ("revoked", f"nodekey:{A}"),
    ]
    assert code == 1
    assert "is revoked" in reason
    assert approved(rental) == {B, C}
    assert [row["result"] for row in rows("device_add", rental.user.email, A)] == ["added"]
    assert approved(rental) == {A, B, C}


@pytest.mark.parametrize("wrong", ["", "nodekey:abc", f"privkey:{A}", f"{A}0"])
def test_what_is_no_node_key_is_refused_and_not_repeated(rental: Rental, wrong: str) -> None:
    reason, _code, _rows = fail("device_add", rental.user.email, A, wrong)
    assert "64 hexadecimal digits" in reason
    assert A not in reason
    assert not Device.objects.exists()


def test_input_without_a_key_is_refused(rental: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"nothing here\n")))
    assert fail("device_add", rental.user.email, "-")[1] == 1


@pytest.mark.parametrize("command", [["device_list"], ["device_add", A], ["device_revoke", A]])
def test_commands_say_who_is_missing(command: list[str]) -> None:
    name, *rest = command
    assert "nobody@example.com" in fail(name, "nobody@example.com", *rest)[0]
    user = UserFactory()
    assert "no rental" in fail(name, user.email, *rest)[0]


# device_list


def test_devices_are_listed_with_who_is_connected(rental: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = DeviceFactory(rental=rental, node_key=C, last_seen_at=timezone.now(), last_ip="198.51.100.7")
    gone, here = add(rental, NewDevice(B, "old"), NewDevice(A, "nas"))
    services.revoke_device(device=gone, by=None)
    now = {A: presence.Presence(1, "198.51.100.7", timezone.now())}
    monkeypatch.setattr(presence, "present_devices", lambda _rental: now)
    found = rows("device_list", rental.user.email)
    assert [(row["status"], row["node_key"], row["is_connected"]) for row in found] == [
        ("approved", f"nodekey:{here.node_key}", True),
        ("pending", f"nodekey:{waiting.node_key}", False),
        ("revoked", f"nodekey:{gone.node_key}", False),
    ]
    table = run("device_list", rental.user.email)[0]
    assert "198.51.100.7" in table
    assert f"nodekey:{A[:16]}…" in table
    assert A not in table


def test_it_is_not_said_who_is_connected_when_nobody_knows(
    rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(rental, NewDevice(A))
    monkeypatch.setattr(presence, "present_devices", lambda _rental: None)
    assert rows("device_list", rental.user.email)[0]["is_connected"] is None


# device_revoke


def test_a_device_is_revoked_by_the_beginning_of_its_key(rental: Rental) -> None:
    add(rental, NewDevice(A), NewDevice(B))
    other = RentalFactory(days=60)
    add(other, NewDevice(A))
    assert rows("device_revoke", rental.user.email, f"nodekey:{A[:8]}".upper())["status"] == "revoked"
    assert (approved(rental), approved(other)) == ({B}, {A})
    said = run("device_revoke", rental.user.email, A)[1]
    assert "revoked already" in said
    assert OperationLog.objects.filter(action="device.revoked").count() == 1


def test_nothing_is_revoked_when_it_is_not_clear_which(rental: Rental) -> None:
    twin = A[:20] + B[20:]
    add(rental, NewDevice(A), NewDevice(twin))
    for text, code in ((A[:7], 2), ("%", 2), (A[:8], 1), (C, 1)):
        assert fail("device_revoke", rental.user.email, text)[1] == code
    assert approved(rental) == {A, twin}
    run("device_revoke", rental.user.email, A[:24])
    assert approved(rental) == {twin}


# serial_redeem --no-auto-enrol


def test_no_window_is_ever_open_when_redeemed_without_automatic_approval() -> None:
    user = UserFactory()
    run("serial_redeem", user.email, SerialNumberFactory().code, "--no-wait", "--no-auto-enrol")
    rental = Rental.objects.get(user=user)
    assert services.window_until(rental) <= timezone.now()
    other = UserFactory()
    run("serial_redeem", other.email, SerialNumberFactory().code, "--no-wait")
    assert services.window_until(Rental.objects.get(user=other)) > timezone.now()


def test_nothing_is_redeemed_when_the_command_dies_before_the_window_is_shut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user, code = UserFactory(), SerialNumberFactory().code

    def die(**_values: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("derpmgmt.management.commands.serial_redeem.close_window", die)
        with pytest.raises(KeyboardInterrupt):
            run("serial_redeem", user.email, code, "--no-wait", "--no-auto-enrol")
    assert not Rental.objects.exists()
    assert not Redemption.objects.exists()
    assert SerialNumber.objects.get().status == SerialNumber.Status.UNUSED
    run("serial_redeem", user.email, code, "--no-wait", "--no-auto-enrol")
    assert DevicePolicy.objects.get().enrol_until is None


def test_a_refusal_is_logged_when_redeemed_without_automatic_approval() -> None:
    user, code = UserFactory(), SerialNumberFactory().code
    serials.redeem_serial(code=code, user=UserFactory(), by=None)
    with pytest.raises(CommandError) as refused:
        run("serial_redeem", user.email, code, "--no-wait", "--no-auto-enrol")
    assert str(refused.value) == str(serials.SerialUsed())
    assert OperationLog.objects.filter(action="serial.refused", is_success=False).count() == 1
    assert not Rental.objects.filter(user=user).exists()
