"""Alerts as whatever comes at random plays them: bad and good readings, gaps, sweeps that die at any write and come twice, people who resolve."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.alerts import services, telling
from accounts.alerts.decide import CRITICAL, WARNING
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute
from accounts.alerts.services import Reading
from accounts.models import User
from tests.factories import UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

BEGIN = datetime(2026, 12, 1, tzinfo=UTC)
RAISE, CLEAR = 30, 60
THINGS = ("server:1", "server:2")
_READ = st.sampled_from([None, "", WARNING, CRITICAL, CRITICAL])
ROUNDS = st.lists(
    st.tuples(
        st.tuples(_READ, _READ),
        st.sampled_from([10, 10, 10, 15, 40, 300]),
        # At which write it dies, and whether it comes twice.
        st.sampled_from([None, None, 1, 2, 3, 4, 6, 9]),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=10,
)


class _Killed(BaseException):
    """As SIGKILL: what is in a transaction is rolled back, what was before stays."""


def dying(at: int | None) -> Callable[..., Any]:
    """Lets every write through until the one with this number."""
    writes = 0

    def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal writes
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            writes += 1
            if writes == at:
                raise _Killed
        return run(sql, params, many, context)

    return execute


@settings(max_examples=5)
@given(rounds=ROUNDS)
def test_one_is_open_a_thing_none_flaps_and_each_is_told_once(rounds: list[Any]) -> None:
    Alert.objects.all().delete()
    AlertRoute.objects.all().delete()
    AlertRule.objects.all().delete()
    admin = User.objects.filter(role=User.Role.ADMIN).first() or UserFactory(role=User.Role.ADMIN)
    AlertRule.objects.create(rule="disk", raise_seconds=RAISE, clear_seconds=CLEAR)
    with time_machine.travel(BEGIN, tick=False) as clock, pytest.MonkeyPatch.context() as patch:
        AlertRoute.objects.create(
            name="all", by=AlertRoute.By.EMAIL, address="noc@example.com", created_at=BEGIN
        )
        # What left, by alert, severity and what is said of it; a message that is under way when it dies may have left.
        left: Counter[tuple[int, str, str]] = Counter()
        seen: dict[str, list[tuple[float, str]]] = {thing: [] for thing in THINGS}

        def hand(_route: Any, _subject: str, _lines: Any, *, before_handing: Any, number: str) -> None:
            before_handing()
            told = AlertDelivery.objects.get(pk=number).tellings.values_list("alert", "severity", "what")
            left.update(told)

        patch.setattr(telling, "hand", hand)

        def sweep(readings: tuple[str | None, ...], dies_at: int | None) -> None:
            now = datetime.now(UTC)
            states = dict(Alert.objects.values_list("pk", "state"))
            with suppress(_Killed), connection.execute_wrapper(dying(dies_at)):
                services.record(
                    [
                        Reading(rule="disk", thing=thing, severity=severity, name=thing)
                        for thing, severity in zip(THINGS, readings, strict=True)
                    ],
                    now=now,
                )
                for thing, severity in zip(THINGS, readings, strict=True):
                    if severity is not None:
                        seen[thing].append((now.timestamp(), severity))
                telling.plan(now)
                telling.recover_lost(now)
                for pk in telling.due(now):
                    telling.send(pk)
            # What died outside a transaction of its own was in one with the test only.
            transaction.set_rollback(False)
            for alert in Alert.objects.all():
                before = states.get(alert.pk, Alert.State.PENDING)
                if alert.state == Alert.State.ACTIVE and before == Alert.State.PENDING:
                    assert not [
                        at for at, bad in seen[alert.thing] if not bad and at > now.timestamp() - RAISE
                    ]
                    assert (now - alert.bad_since).total_seconds() >= RAISE
                if alert.gone_at == now and alert.pk in states:
                    assert not [at for at, bad in seen[alert.thing] if bad and at > now.timestamp() - CLEAR]
            opened = Counter(Alert.objects.filter(gone_at=None).values_list("thing", flat=True))
            assert set(opened.values()) <= {1}
            assert not [what for what, number in left.items() if number > 1]

        for readings, seconds, dies_at, is_twice, is_resolved in rounds:
            clock.shift(timedelta(seconds=seconds))
            sweep(readings, dies_at)
            if is_twice:
                sweep(readings, None)
            for alert in Alert.objects.active() if is_resolved else ():
                services.resolve_alert(alert=alert, by=admin, note="seen")
        # Whatever was before: what is bad is told, and so is its end.
        for severity, state in ((CRITICAL, Alert.State.ACTIVE), ("", Alert.State.CLEARED)):
            for _number in range(6 if severity else 9):
                clock.shift(timedelta(seconds=30))
                sweep((severity, severity), None)
            for thing in THINGS:
                last = Alert.objects.filter(thing=thing).latest("pk")
                # Who resolved one that was as bad hears no more of it.
                assert last.state in {state, Alert.State.RESOLVED}
                what = "cleared" if last.gone_at else "raised"
                assert (
                    last.state == Alert.State.RESOLVED
                    or left[last.pk, CRITICAL, what] == 1
                    or _is_in_doubt(last)
                )


def _is_in_doubt(alert: Alert) -> bool:
    """Whether a worker died while it told of it, so that nobody knows; or of its beginning, so that its end says nothing to anybody."""
    return alert.tellings.filter(delivery__state__in=["failed", "sending"]).exists()
