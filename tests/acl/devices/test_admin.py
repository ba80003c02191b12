"""Devices and admissions in the admin: who finds them how, and that they change by services only."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from accounts.models import OperationLog, User
from acl.devices import admin, services
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from derpmgmt.admin_site import PanelAdminSite
from serials.numbers.models import SerialBatch
from serials.rentals.models import Rental, RentalSpan
from tests.accounts import ticking
from tests.factories import DeviceFactory, RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db

KEYS = [f"{number:02x}" * 32 for number in range(1, 30)]
A, B, C = KEYS[:3]
DEVICES, ADMISSIONS = "/admin/acl/device/", "/admin/acl/admission/"


@pytest.fixture(autouse=True)
def _door_is_open() -> Iterator[None]:
    """The second factor is the door's business, tested there."""
    with mock.patch.object(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff):
        yield


@pytest.fixture
def rental() -> Rental:
    return RentalFactory(days=60)


@pytest.fixture
def staff() -> Client:
    client = Client()
    user = UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    User.objects.update(language="en")
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def add(rental: Rental, *devices: NewDevice) -> list[Device]:
    return list(services.add_devices(rental=rental, devices=devices, by=None).added)


def ask(rental: Rental, key: str, ip: str = "203.0.113.9", *, is_allowed: bool = True) -> None:
    relay = rental.relays.first() or RelayFactory(rental=rental)
    reason = "approved" if is_allowed else "ended"
    services.record_admissions(
        [services.Asked(relay.pk, rental.pk, key, ip, is_allowed, reason, at=timezone.now())]
    )


def act(client: Client, action: str, *devices: Device) -> str:
    return " ".join(ticking.said(ticking.do(client, DEVICES, action, devices)))


def found(client: Client, url: str, term: str, **query: Any) -> set[str]:
    listed = client.get(url, {"q": term, **query}).context["cl"].result_list
    return {row.node_key for row in listed}


def test_devices_are_approved_and_revoked_by_services(rental: Rental, staff: Client) -> None:
    [first] = add(rental, NewDevice(A))
    waiting = DeviceFactory(rental=rental, node_key=B)
    assert "1 device is approved" in act(staff, "approve", first, waiting)
    assert set(Device.objects.values_list("status", flat=True)) == {"approved"}
    assert "2 devices are revoked" in act(staff, "revoke", first, waiting)
    assert set(Device.objects.values_list("status", flat=True)) == {"revoked"}
    entry = OperationLog.objects.filter(action="device.revoked").first()
    assert entry
    assert entry.actor
    assert entry.actor.email == "boss@example.com"
    assert entry.ip


def test_the_reason_is_shown_when_a_device_cannot_be_approved(rental: Rental, staff: Client) -> None:
    RentalSpan.objects.filter(rental=rental).update(device_limit=1)
    add(rental, NewDevice(A))
    waiting = DeviceFactory(rental=rental, node_key=B)
    assert "all places are taken" in act(staff, "approve", waiting)
    waiting.refresh_from_db()
    assert waiting.status == Device.Status.PENDING


def test_nothing_is_edited_or_deleted_by_hand(rental: Rental, staff: Client) -> None:
    [device] = add(rental, NewDevice(A, "nas"))
    staff.post(f"{DEVICES}{device.pk}/change/", {"name": "other", "node_key": B})
    assert staff.post(f"{DEVICES}{device.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in staff.get(DEVICES).content.decode()
    device.refresh_from_db()
    assert (device.name, device.node_key) == ("nas", A)


def test_devices_are_found_by_key_name_address_and_customer(rental: Rental, staff: Client) -> None:
    other = RentalFactory(days=60)
    add(rental, NewDevice(A, "nas"))
    add(other, NewDevice(B, "phone"))
    Device.objects.filter(node_key=A).update(last_ip="198.51.100.7")
    for term in (
        A,
        f"nodekey:{A}",
        f"nodekey:{A[:3]}",
        A[:8].upper(),
        "na",
        "198.51.100.7",
        rental.user.email,
    ):
        assert found(staff, DEVICES, term) == {A}, term
    assert found(staff, DEVICES, "") == {A, B}
    assert found(staff, DEVICES, "nobody") == set()
    assert found(staff, DEVICES, "", rental__id__exact=other.pk) == {B}
    assert found(staff, DEVICES, "", status__exact="revoked") == set()


def test_admissions_are_found_by_key_address_and_customer(rental: Rental, staff: Client) -> None:
    other = RentalFactory(days=60)
    ask(rental, A, "198.51.100.7")
    ask(other, B, is_allowed=False)
    for term in (A, A[:8], "198.51.100.7", rental.user.email):
        assert found(staff, ADMISSIONS, term) == {A}, term
    assert found(staff, ADMISSIONS, "", is_allowed__exact=0) == {B}
    assert found(staff, ADMISSIONS, "", reason__exact="ended") == {B}
    assert found(staff, ADMISSIONS, "", rental__id__exact=rental.pk) == {A}


def test_admissions_are_counted_so_far_only(
    rental: Rental, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS[:8]:
        ask(rental, key)
    monkeypatch.setattr(admin, "MOST_LISTED", 5)
    with CaptureQueriesContext(connection) as queries:
        page = staff.get(ADMISSIONS)
    assert page.context["cl"].result_count == 5
    counts = [
        query["sql"] for query in queries if "COUNT(" in query["sql"] and "acl_admission" in query["sql"]
    ]
    assert counts
    assert all("LIMIT 5" in sql for sql in counts)


def test_a_rentals_page_tells_of_its_devices_and_leads_to_them(rental: Rental, staff: Client) -> None:
    url = f"/admin/serials/rental/{rental.pk}/change/"
    add(rental, NewDevice(A))
    DeviceFactory(rental=rental, node_key=B)
    text = staff.get(url).content.decode()
    assert "1 approved, 20 allowed, 1 waiting, 0 on trial." in text
    assert "New ones are approved automatically until" in text
    assert f"{DEVICES}?rental__id__exact={rental.pk}" in text
    assert f"{ADMISSIONS}?rental__id__exact={rental.pk}" in text
    services.close_window(rental=rental, by=None)
    services.set_open(rental=rental, is_open=True, by=None)
    DevicePolicy.objects.update(verify_url="https://hs.example.com/verify?secret=s3")
    policy = DevicePolicy.objects.get()
    DevicePolicy.objects.update(verify_problem="Nothing answers at the address in time.")
    text = staff.get(url).content.decode()
    for words in (
        "New ones are not approved automatically.",
        "Device checking is off",
        "hs.example.com",
        "Nothing answers",
        f"/admin/acl/devicepolicy/{policy.pk}/change/",
    ):
        assert words in text, words
    own = staff.get(f"/admin/acl/devicepolicy/{policy.pk}/change/").content.decode()
    assert "hs.example.com" in own
    assert f"/admin/serials/rental/{rental.pk}/change/" in own
    assert "s3" not in own
    assert "s3" not in text
    person = staff.get(f"/admin/accounts/user/{rental.user_id}/change/").content.decode()
    assert url in person
    person = staff.get(f"/admin/accounts/user/{rental.user_id}/change/?tab=devices").content.decode()
    assert f"{DEVICES}?rental__id__exact={rental.pk}" in person


def test_a_persons_page_opens_when_there_is_no_rental(staff: Client) -> None:
    user = UserFactory(email="new@example.com")
    assert staff.get(f"/admin/accounts/user/{user.pk}/change/").status_code == 200


@pytest.mark.parametrize("model", [Device, DevicePolicy, Admission])
def test_a_customer_sees_his_own_rows_only(rental: Rental, model: Any) -> None:
    for one in (rental, RentalFactory(days=60)):
        add(one, NewDevice(A))
        services.close_window(rental=one, by=None)
        ask(one, A)
    assert [row.rental_id for row in model.objects.visible_to(rental.user)] == [rental.pk]
    assert not model.objects.visible_to(AnonymousUser()).exists()
    admin = UserFactory(email="a@example.com", role=User.Role.ADMIN)
    assert model.objects.visible_to(admin).count() == 2


@pytest.mark.parametrize("is_ticked", [True, False])
def test_a_batch_says_whether_checking_may_be_switched_off(staff: Client, is_ticked: bool) -> None:
    data = {"name": "b", "days": "30", "count": "1", "device_limit": "20", "at_quota": "nothing"}
    page = staff.get("/admin/serials/serialbatch/add/")
    assert page.context["adminform"].form["may_open"].initial is True
    staff.post("/admin/serials/serialbatch/add/", data | ({"may_open": "on"} if is_ticked else {}))
    assert SerialBatch.objects.get().may_open is is_ticked


@pytest.mark.parametrize(
    ("places", "is_made"), [("1000", True), ("1001", False), ("2147483648", False), ("0", False)]
)
def test_a_batch_is_for_so_many_devices_at_most(staff: Client, places: str, is_made: bool) -> None:
    data = {"name": "b", "days": "30", "count": "1", "device_limit": places, "at_quota": "nothing"}
    response = staff.post("/admin/serials/serialbatch/add/", data)
    assert SerialBatch.objects.exists() == is_made
    assert is_made or "device_limit" in response.context["adminform"].form.errors


def test_words_of_devices_are_not_those_of_jobs_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Chinese a device waits for approval, a job for its turn; “devices” is also the heading of a number."""
    monkeypatch.setattr(translation._trans, "pgettext", lambda context, text: f"{context}: {text}")
    words = [*Device.Status.labels, Device._meta.verbose_name_plural]
    assert [str(word) for word in words] == [
        "device: waiting",
        "device: approved",
        "device: revoked",
        "device: devices",
    ]
