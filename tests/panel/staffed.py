"""A customer with all there is, and a super admin who reads English, for tests of the admin's pages."""

import pytest
from django.test import Client

from accounts.models import User
from serials.rentals.models import Rental
from tests.factories import WholeRentalFactory
from tests.panel import world


@pytest.fixture
def rental() -> Rental:
    rental = WholeRentalFactory()
    world.add_devices(rental)
    return rental


@pytest.fixture
def boss(rental: Rental) -> Client:
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    User.objects.update(language="en")
    return client
