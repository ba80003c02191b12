"""Who sees which rows, whatever page asks: every model says so itself with `visible_to`."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import AnonymousUser

from accounts.models import Channel, User
from serials.rentals.models import Rental
from tests.factories import UserFactory, WholeRentalFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def of_people() -> list[Any]:
    """The models whose rows belong to one customer each, of which `WholeRentalFactory` makes some."""
    models = [model for model in apps.get_models() if hasattr(model._default_manager, "visible_to")]
    return [model for model in models if model is not Channel and model._default_manager.exists()]


def rows(model: Any, user: Any) -> set[int]:
    return set(model._default_manager.visible_to(user).values_list("pk", flat=True))


def test_a_customer_sees_his_own_rows_and_nobody_elses() -> None:
    admin = UserFactory(email="admin@example.com", role=User.Role.ADMIN)
    first, second = WholeRentalFactory(), WholeRentalFactory()
    own = set()
    for model in of_people():
        of_first, of_second = rows(model, first.user), rows(model, second.user)
        assert not of_first & of_second, model
        assert len(of_first) == len(of_second), model
        assert rows(model, AnonymousUser()) == set(), model
        assert rows(model, admin) == set(model._default_manager.values_list("pk", flat=True)), model
        if of_first:
            own.add(model.__name__)
    assert rows(Rental, first.user) == {first.pk}
    assert own >= {
        "User", "Notice", "OperationLog", "SerialNumber", "Rental", "Redemption", "RentalSpan", "Relay", "Deployment",
        "MapRegion", "AclConfig", "AclEvent", "LiveUrl",
    }  # fmt: skip
