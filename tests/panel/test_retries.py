"""When what failed is tried again: one rule for relays, gates, their lists, servers, cuts and the rows of sweeps."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import sweeps
from accounts.models import PutOff
from acl.devices.models import CUT, DevicePolicy
from containers.models import LIST_RETRY, RETRY, Gate, Relay
from derpmgmt.lib.retries import Retry
from fleet.models import CONTACT, Server
from tests.factories import PutOffFactory, ServerFactory

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.integers(1, 10**5))
def test_the_pause_grows_up_to_the_longest(failures: int, first: int, longest: int) -> None:
    retry = Retry(timedelta(seconds=first), timedelta(seconds=longest))
    pause, next_pause = retry.pause(failures), retry.pause(failures + 1)
    assert retry.pause(0) == timedelta(seconds=min(first, longest))
    assert pause <= next_pause <= retry.longest
    assert next_pause == min(2 * pause, retry.longest)


@pytest.mark.parametrize(
    ("model", "retry"),
    [
        (Relay, RETRY),
        (Gate, RETRY),
        (Gate, LIST_RETRY),
        (Server, CONTACT),
        (DevicePolicy, CUT),
        (PutOff, sweeps.RETRY),
    ],
)
def test_rows_have_the_columns(model: type, retry: Retry) -> None:
    columns = {field.name for field in model._meta.get_fields()}  # type: ignore[attr-defined]
    assert {retry.failures, retry.try_after} <= columns
    assert retry.cleared == {retry.failures: 0, retry.try_after: None}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("until", "rests"), [(None, False), (NOW - MOMENT, False), (NOW, False), (NOW + MOMENT, True)]
)
def test_queries_and_rows_agree_on_who_rests(until: datetime | None, rests: bool) -> None:
    server = ServerFactory(next_contact_at=until)
    assert CONTACT.rests(server, NOW) is rests
    assert Server.objects.filter(CONTACT.due(NOW)).exists() is not rests
    assert type(server).objects.due_for_contact(NOW).exists() is not rests


@pytest.mark.django_db
def test_a_failure_is_written_down_with_what_is_known_of_it() -> None:
    PutOffFactory(work="test", row=1)
    for failures in range(3):
        PutOff.objects.update(**sweeps.RETRY.failed(failures, NOW, "x" * 40))
    row = PutOff.objects.get()
    assert (row.failures, row.failure_code, row.failed_at) == (3, "x" * 32, NOW)
    assert row.try_after == NOW + timedelta(seconds=40)
