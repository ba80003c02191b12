"""A customer with a map, and the live URL of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from acl.devices import admission, admission_writer
from acl.devices.services import admission_rows, pace
from acl.maps import copies, services
from serials.rentals.models import Rental
from tests.acl.reading import path_of
from tests.factories import ServedRentalFactory


@pytest.fixture(autouse=True)
def _fresh(settings: Any, tmp_path: Any) -> Iterator[None]:
    """Copies on disk of each test's own, and nothing remembered as away."""
    settings.VAR_DIR = tmp_path
    copies.redis_rest.end()
    copies.database_rest.end()
    yield
    copies.redis_rest.end()
    copies.database_rest.end()


@pytest.fixture(autouse=True)
def _fresh_admission(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked yet."""
    monkeypatch.setattr(admission, "_counts", admission._Counts())
    monkeypatch.setattr(admission, "_known", admission._Known())
    monkeypatch.setattr(admission_rows, "_pace", pace.Pace())
    admission_writer._waiting.clear()
    admission_writer._seen.clear()


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(days=60)


@pytest.fixture
def path(rental: Rental, django_capture_on_commit_callbacks: Any) -> str:
    with django_capture_on_commit_callbacks(execute=True):
        return path_of(services.create_live_url(rental=rental, by=rental.user))


@pytest.fixture
def redis_away(settings: Any) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def away() -> Iterator[None]:
        before = settings.CACHES
        settings.CACHES = {
            "default": before["default"] | {"LOCATION": "unix:///nonexistent/valkey.sock?db=1"}
        }
        yield
        settings.CACHES = before
        copies.redis_rest.end()

    return away
