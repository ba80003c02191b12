"""The secret of a live URL never reaches the panel's log, whatever is answered."""

import logging
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from acl.maps import copies, services
from acl.maps.models import AclConfig, LiveUrl
from serials.rentals.models import Rental
from tests.acl.reading import database_away, get

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def is_told(caplog: pytest.LogCaptureFixture, path: str) -> bool:
    secret = path.removeprefix("/live/").removesuffix(".json")
    return any(secret in str(vars(record)) for record in caplog.records)


def test_log_holds_no_secret_when_the_address_was_revoked(
    rental: Rental, path: str, caplog: pytest.LogCaptureFixture, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_live_url(url=LiveUrl.objects.get(), by=rental.user)
    assert get(path).status_code == 404
    assert not is_told(caplog, path)


def test_log_holds_no_secret_when_it_is_asked_for_too_often(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PER_URL", 0)
    assert get(path).status_code == 429
    assert not is_told(caplog, path)


def test_log_holds_no_secret_when_the_version_has_lapsed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    AclConfig.objects.update(ends_at=timezone.now())
    copies.forget(copies.kept_hashes())
    assert get(path).status_code == 503
    assert not is_told(caplog, path)


def test_log_says_what_is_away_but_no_secret_when_nobody_knows(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    copies.forget(copies.kept_hashes())
    with database_away():
        assert get(path).status_code == 503
    assert "the database is away" in caplog.text
    assert not is_told(caplog, path)


def test_log_says_what_broke_but_no_secret_when_there_is_a_bug(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(copies, "glance", fail)
    assert get(path).status_code == 503
    assert "ZeroDivisionError" in caplog.text
    assert not is_told(caplog, path)


def test_log_holds_no_secret_when_the_address_is_used_wrongly(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    for wrong in (f"{path}/", path.removesuffix(".json"), f"/live/x{path.removeprefix('/live/')}"):
        assert get(wrong).status_code == 404
    assert not is_told(caplog, path)


@pytest.mark.parametrize("is_revoked", [False, True])
def test_map_is_served_and_no_secret_told_when_the_address_begins_with_two_slashes(
    path: str, is_revoked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if is_revoked:
        LiveUrl.objects.update(revoked_at=timezone.now())
        copies.forget(copies.kept_hashes())
    # The test's browser would take a path that begins with two slashes for a host.
    answer = Client().get("/", PATH_INFO=f"/{path}")
    assert (answer.status_code, answer.content == get(path).content) == (404 if is_revoked else 200, True)
    assert not is_told(caplog, path)
