"""Whatever an operator does through the admin stands in the activity log with the address that they did it from."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.db import transaction
from django.test import RequestFactory
from django.utils import timezone

from accounts import services
from accounts.models import OperationLog, User
from acl.devices.models import Device
from serials.numbers.models import SerialNumber
from serials.rentals.models import Rental
from tests.factories import SerialBatchFactory, ServerFactory, UserFactory
from tests.panel import world
from tests.panel.test_every_url import Address, addresses, rental  # noqa: F401  (fixtures)

pytestmark = pytest.mark.django_db

ADDRESS = "203.0.113.9"


@pytest.fixture
def act(db: None) -> Callable[..., list[OperationLog]]:
    """Posts as a super admin and undoes what that did; returns what was written down of it as their."""
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    client.raise_request_exception = False
    staff = User.objects.get(pk=client.session["_auth_user_id"])

    def post(path: str, data: dict[str, Any] | None = None) -> list[OperationLog]:
        last = OperationLog.objects.order_by("-pk").values_list("pk", flat=True)[0]
        with transaction.atomic():
            client.post(path, data or {}, REMOTE_ADDR=ADDRESS)
            found = list(OperationLog.objects.filter(pk__gt=last, actor=staff))
            transaction.set_rollback(True)
        return found

    return post


def _actions(rental: Rental) -> list[tuple[str, dict[str, Any]]]:  # noqa: F811
    """Every action of every list, for a row of it, and confirmed where that is asked for."""
    request = RequestFactory().get("/")
    request.user = User.objects.filter(is_superuser=True)[0]
    found = []
    for model, page in admin.site._registry.items():
        rows = {
            SerialNumber: SerialNumber.objects.unused().first(),
            Device: rental.devices.filter(status=Device.Status.PENDING).first(),
        }
        row = rows.get(model) or world.row_of(rental, model)
        for name in page.get_actions(request):
            path = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
            found.append((path, {"action": name, "_selected_action": [row.pk], "index": 0}))
            if name not in page.actions:
                found.append((f"{path}ticked/{name}/do/", {"row": [row.pk]}))
    return found


def _forms(rental: Rental) -> list[tuple[str, dict[str, Any]]]:  # noqa: F811
    """Buttons and forms that need more than a click."""
    server, relay = rental.relays.get(slot=1).server, rental.relays.get(slot=1)
    credential = server.credential
    until = f"{timezone.localdate().year + 1}-06-01"
    free = ServerFactory(whole=True)
    fields = {
        name: value
        for name, value in free.__dict__.items()
        if not name.startswith("_") and value is not None and not name.endswith("_at")
    }
    fields |= {"region": free.region_id, "credential": free.credential_id, "capacity": 7}
    if free.provider_account_id:
        fields["provider_account"] = free.provider_account_id
    act = f"/admin/serials/rental/{rental.pk}"
    return [
        (f"{act}/renew/do/", {"until": until}),
        (f"{act}/pause/do/", {"reason": "test"}),
        (f"/admin/fleet/server/{server.pk}/start-maintenance/do/", {}),
        (f"/admin/fleet/server/{free.pk}/retire/do/", {}),
        (f"/admin/fleet/server/{server.pk}/host-key/", {"line": server.host_key}),
        (f"/admin/fleet/server/{free.pk}/change/", fields),
        (f"/admin/containers/servercheck/server/{server.pk}/", {}),
        (f"/admin/containers/relay/{relay.pk}/retry/do/", {}),
        (f"/admin/accounts/user/{rental.user_id}/ban/do/", {}),
        (f"/admin/accounts/user/{rental.user_id}/close/do/", {"reason": "test"}),
        (f"/admin/accounts/user/{rental.user_id}/reset-second-factor/do/", {}),
        ("/admin/accounts/user/add/", {"email": "new@example.com", "username": "", "role": "user"}),
        (
            f"/admin/accounts/user/{rental.user_id}/change/",
            {"username": "another-name", "language": "en", "role": "user"},
        ),
        (f"/admin/fleet/sshcredential/{credential.pk}/change/", {"name": "another", "user": "root"}),
        (
            "/admin/serials/serialbatch/add/",
            {"name": "b", "days": 30, "count": 2, "device_limit": 5, "at_quota": "pause", "grace_days": 0},
        ),
    ]


@pytest.mark.slow
def test_every_act_of_an_operator_has_his_address(
    rental: Rental,  # noqa: F811
    addresses: list[Address],  # noqa: F811
    act: Callable[..., list[OperationLog]],
) -> None:
    SerialBatchFactory(count=2)
    services.enrol_second_factor(user=rental.user, secret="JBSWY3DPEHPK3PXP")
    found: list[OperationLog] = []
    for address in addresses:
        if address.is_admin and "logout" not in address.name:
            found += act(address.path)
    for path, data in [*_actions(rental), *_forms(rental)]:
        found += act(path, data)
    without = sorted({entry.action for entry in found if entry.ip != ADDRESS})
    assert not without
    # Of these it is known that they were done: a walk that does nothing would find nothing missing.
    assert {entry.action for entry in found} >= {
        "user.banned",
        "user.changed",
        "user.created",
        "user.closing",
        "second_factor.reset",
        "rental.paused",
        "rental.renewed",
        "server.maintenance_started",
        "server.host_key_confirmed",
        "server.retired",
        "server.check_requested",
        "device.approved",
        "device.revoked",
        "serial.recalled",
        "serial.revealed",
        "map.renewed",
    }


def test_only_the_operators_own_acts_have_it(rental: Rental) -> None:  # noqa: F811
    staff = UserFactory(email="staff@example.com", role=User.Role.ADMIN)
    with services.acting(staff.pk, ADDRESS):
        by_himself = services.log_operation(by=staff, action="user.changed")
        others = [
            services.log_operation(by=None, action="user.changed"),
            services.log_operation(by=rental.user, action="user.changed"),
            services.log_operation(by=UserFactory(email="b@example.com", role="admin"), action="x"),
        ]
    assert by_himself.ip == ADDRESS
    assert [entry.ip for entry in others] == [None, None, None]
    assert services.log_operation(by=staff, action="user.changed").ip is None
