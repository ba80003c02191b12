"""What stood in the redemption about its serial number stands in the serial number, and whether it is paid in the redemption."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

BEFORE = [("serials", "0006_device_limit_bound")]
AFTER = [("serials", "0007_redemption_of_serial")]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def old_models() -> Iterator[Any]:
    yield migrate(BEFORE)
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def migrate(targets: list[tuple[str, str]]) -> Any:
    executor = MigrationExecutor(connection)
    executor.migrate(targets)
    return executor.loader.project_state([*targets, *executor.loader.graph.leaf_nodes("accounts")]).apps


def make_redeemed(models: Any, name: str, paid_at: datetime | None) -> None:
    user = models.get_model("accounts", "User").objects.create(email=f"{name}@example.com", username=name)
    batch = models.get_model("serials", "SerialBatch").objects.create(
        name=name, days=30, count=2, paid_at=paid_at
    )
    serial_number = models.get_model("serials", "SerialNumber")
    used = serial_number.objects.create(
        batch=batch, code_hash=f"{name}1", code="x", code_end="AAAA", status="used"
    )
    serial_number.objects.create(batch=batch, code_hash=f"{name}2", code="y", code_end="BBBB")
    now = timezone.now()
    rental = models.get_model("serials", "Rental").objects.create(user=user, ends_at=now + timedelta(days=30))
    redemption = models.get_model("serials", "Redemption").objects
    redemption.create(rental=rental, kind="serial", serial=used, granted_seconds=1, new_ends_at=now)
    redemption.create(rental=rental, kind="renewal", granted_seconds=1, new_ends_at=now)


@pytest.mark.slow
def test_serials_and_unpaid_redemptions_are_kept_when_the_pointer_turns(old_models: Any) -> None:
    make_redeemed(old_models, "paid", timezone.now())
    make_redeemed(old_models, "unpaid", None)
    models = migrate(AFTER)
    serial_number = models.get_model("serials", "SerialNumber").objects
    redeemed = serial_number.order_by("code_hash").values_list(
        "code_hash", "redemption__kind", "redemption__rental__user__username"
    )
    assert list(redeemed) == [
        ("paid1", "serial", "paid"),
        ("paid2", None, None),
        ("unpaid1", "serial", "unpaid"),
        ("unpaid2", None, None),
    ]
    unpaid = models.get_model("serials", "Redemption").objects.filter(unpaid_since__isnull=False)
    assert list(unpaid.values_list("rental__user__username", "kind")) == [("unpaid", "serial")]
    models = migrate(BEFORE)
    back = (
        models.get_model("serials", "Redemption")
        .objects.order_by("pk")
        .values_list("serial__code_hash", flat=True)
    )
    assert list(back) == ["paid1", None, "unpaid1", None]
