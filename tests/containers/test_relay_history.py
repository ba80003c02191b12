"""What a customer reads of the relays that they have and had: nothing that happened to them goes from their history."""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import OperationLog
from tests.containers.rentals import DAY, end, plan, prove, set_end
from tests.factories import RelayFactory

if TYPE_CHECKING:
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db

READY, REMOVED = "Relay ready", "Relay removed"


def history(rental: Rental, **query: str) -> Any:
    from accounts.models import User

    User.objects.filter(pk=rental.user_id).update(language="en")
    client = Client(headers={"accept-language": "en"})
    user = User.objects.get(pk=rental.user_id)
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client.get("/history/", {"kind": "relay", **query})


def entries(rental: Rental) -> list[tuple[Any, ...]]:
    """Moment, title and text of every entry, newest first."""
    shown = history(rental).context["entries"]
    return [(entry.at, entry.title, entry.text) for entry in shown]


def titles(rental: Rental) -> list[str]:
    return [title for _at, title, _text in entries(rental)]


def test_what_happened_stays_when_the_relays_come_back(rental: Rental) -> None:
    relay = rental.relays.select_related("server__region").get(slot=1)
    end(rental)
    before = entries(rental)
    assert [title for _at, title, _text in before] == [REMOVED] * 3 + [READY] * 3
    # The activity log names a relay as everybody else does.
    targets = OperationLog.objects.filter(action="relay.ready").values_list("target", flat=True)
    assert f"{relay.server.name} · {relay.derp_port}" in targets
    place = f"{relay.server.region.name_en} · {relay.certificate_address}:{relay.derp_port}"
    assert [text for _at, _title, text in before].count(place) == 2
    set_end(rental, timezone.now() + 10 * DAY)
    plan(rental)
    assert entries(rental) == before
    prove(rental)
    assert titles(rental)[:3] == [READY] * 3
    assert entries(rental)[3:] == before


def test_what_happened_stays_when_a_pause_is_over(rental: Rental) -> None:
    from serials.rentals.services import pause_rental, resume_rental

    pause_rental(rental=rental, by=None)
    plan(rental)
    prove(rental)
    before = entries(rental)
    resume_rental(rental=rental, by=None)
    plan(rental)
    prove(rental)
    assert entries(rental)[3:] == before
    assert len(before) == 6


def test_each_moment_is_written_once_when_a_worker_does_its_work_twice(rental: Rental) -> None:
    from containers.services.relays import record_released, record_running

    relays = list(rental.relays.wanted())
    for relay in relays:
        record_running(relay=relay, image="derpmgmt/derper:0123456789ab", now=timezone.now())
    end(rental)
    for relay in relays:
        record_released(relay=relay, now=timezone.now())
    assert titles(rental) == [REMOVED] * 3 + [READY] * 3


def test_the_table_and_the_operators_page_hold_the_same(rental: Rental) -> None:
    from accounts.models import User
    from tests.panel import world

    relay = rental.relays.get(slot=1)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    prove(rental)
    lines = history(rental, view="table").context["lines"]
    assert [line[1].text for line in lines] == titles(rental)
    assert [line[2].text for line in lines] == ["Shanghai"] * 9
    assert [line[3].text for line in lines].count(relay.certificate_address) == 3
    page = world.enter(User.Role.ADMIN, has_factor=True).get(
        reverse("admin:accounts_user_change", args=[rental.user_id]), {"tab": "history", "kind": "relay"}
    )
    assert len(page.context["entries"]) == 9


def test_relays_of_a_closed_account_stay_in_its_history(rental: Rental) -> None:
    from accounts.models import User
    from accounts.services import close_account
    from tests.accounts.closing import do_jobs
    from tests.panel import world

    close_account(user=rental.user, by=None)
    do_jobs(rental.user)
    rental.user.refresh_from_db()
    assert rental.user.closed_at
    page = world.enter(User.Role.ADMIN, has_factor=True).get(
        reverse("admin:accounts_user_change", args=[rental.user_id]), {"tab": "history", "kind": "relay"}
    )
    assert len(page.context["entries"]) == 6


def test_what_happened_before_the_log_knew_relays_is_carried_over_once(rental: Rental) -> None:
    from django.apps import apps

    from accounts.models import OperationLog
    from containers.models import Relay

    carry_over = importlib.import_module("containers.migrations.0005_relay_history").carry_over
    long_ago = timezone.now() - timedelta(days=40)
    Relay.objects.filter(rental=rental).update(proven_at=long_ago)
    RelayFactory(rental=rental, slot=None, status="released", proven_at=long_ago, released_at=long_ago + DAY)
    RelayFactory(rental=rental, slot=None, status="failed", proven_at=None)
    OperationLog.objects.filter(action__startswith="relay.").delete()
    assert entries(rental) == []
    carry_over(apps, None)
    before = entries(rental)
    assert [(at, title) for at, title, _text in before] == [
        (long_ago + DAY, REMOVED),
        *[(long_ago, READY)] * 4,
    ]
    carry_over(apps, None)
    assert entries(rental) == before
