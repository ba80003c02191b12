"""Alerts as rows: one a thing, whoever sweeps, dies or comes twice; what operators change and resolve."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone, translation

from accounts import services as accounts
from accounts.alerts import services
from accounts.alerts.decide import CRITICAL, WARNING
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.services import AlertRefused, Reading
from accounts.models import OperationLog, User
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def read(value: float | None, seconds: float, thing: str = "server:1", **more: Any) -> list[int]:
    return services.record(
        [Reading(rule="disk", thing=thing, value=value, name="web-1", server=1, **more)], now=at(seconds)
    )


def alert() -> Alert:
    return Alert.objects.get()


def states() -> list[str]:
    return list(Alert.objects.order_by("pk").values_list("state", flat=True))


def test_what_is_well_leaves_no_row(django_assert_num_queries: Any) -> None:
    readings = [
        Reading(rule="disk", thing=f"server:{number}", value=10, server=number) for number in range(200)
    ]
    with django_assert_num_queries(2):
        services.record(readings)
    assert not Alert.objects.exists()


def test_it_is_raised_after_its_time_and_cleared_after_another() -> None:
    assert read(90, 0) == []
    assert states() == ["pending"]
    assert read(90, 50) == []
    assert read(90, 60) == [alert().pk]
    assert (alert().state, alert().severity, alert().since, alert().raised_at) == (
        "active",
        WARNING,
        at(0),
        at(60),
    )
    assert read(97, 70) == [alert().pk]
    assert alert().severity == CRITICAL
    for seconds in range(80, 380, 60):
        read(20, seconds)
    assert states() == ["active"]
    assert alert().seen_at == at(70)
    read(20, 380)
    assert (alert().state, alert().gone_at) == ("cleared", at(380))
    read(90, 400)
    assert states() == ["cleared", "pending"]


def test_a_blip_leaves_nothing() -> None:
    read(90, 0)
    read(10, 10)
    assert not Alert.objects.exists()


def test_nobody_can_tell_is_not_well() -> None:
    read(90, 0)
    read(90, 60)
    for seconds in range(70, 1000, 10):
        read(None, seconds)
    assert states() == ["active"]


def test_the_database_keeps_a_second_one_out() -> None:
    read(90, 0)
    fields = {
        name: getattr(alert(), name) for name in ("kind", "thing", "rule", "severity", "since", "bad_since")
    }
    with pytest.raises(IntegrityError), transaction.atomic():
        Alert.objects.create(**fields, source="reading", seen_at=NOW, looked_at=NOW)
    Alert.objects.create(**fields, source="reading", seen_at=NOW, looked_at=NOW, gone_at=NOW)


def test_two_sweeps_at_the_same_moment_raise_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes between what this one read and what it writes."""
    real, raised = services.decide, []

    def decide_late(*given: Any) -> Any:
        if not raised:
            raised.append("now")
            raised.extend(read(90, 60))
        return real(*given)

    read(90, 0)
    monkeypatch.setattr(services, "decide", decide_late)
    raised.extend(read(90, 61))
    assert raised == ["now", alert().pk]
    assert states() == ["active"]


@pytest.mark.parametrize("moment", ["_create", "_move"])
def test_a_sweep_that_dies_is_made_up_for(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_given: Any) -> None:
        raise SystemExit

    for seconds in (0, 60, 70):
        with monkeypatch.context() as patch:
            patch.setattr(services, moment, die)
            with suppress(SystemExit):
                read(90, seconds)
        read(90, seconds)
        assert Alert.objects.count() == 1
    assert states() == ["active"]


def test_an_operator_changes_a_rule_for_all_and_for_one_server() -> None:
    admin = UserFactory(role=User.Role.ADMIN)
    services.change_rule(row=AlertRule(rule="disk", warning=50, raise_seconds=0), by=admin)
    services.change_rule(row=AlertRule(rule="disk", server=2, warning=99, critical=99), by=admin)
    readings = [Reading(rule="disk", thing=f"server:{number}", value=60, server=number) for number in (1, 2)]
    services.record(readings)
    assert alert().server == 1
    assert OperationLog.objects.filter(action="alert_rule.changed", actor=admin).count() == 2


def test_what_is_switched_off_raises_nothing_and_ends_what_is_open() -> None:
    read(90, 0)
    read(90, 60)
    services.change_rule(row=AlertRule(rule="disk", is_on=False), by=UserFactory(role=User.Role.ADMIN))
    for seconds in range(70, 400, 60):
        read(90, seconds)
    assert states() == ["cleared"]


def test_what_is_resolved_is_not_raised_again_while_its_cause_lasts_unless_it_is_worse() -> None:
    admin = UserFactory(role=User.Role.ADMIN)
    read(90, 0)
    read(90, 60)
    with pytest.raises(AlertRefused):
        services.resolve_alert(alert=alert(), by=admin, note="  ")
    with pytest.raises(accounts.NotAllowed):
        services.resolve_alert(alert=alert(), by=UserFactory(), note="mine")
    assert services.resolve_alert(alert=alert(), by=admin, note="a new disk\nis ordered")
    assert not services.resolve_alert(alert=alert(), by=admin, note="twice")
    assert (alert().state, alert().resolved_by, alert().note) == ("resolved", admin, "a new disk is ordered")
    assert read(90, 70) == []
    assert states() == ["resolved"]
    assert read(97, 80) == [alert().pk]
    assert states() == ["active"]
    services.resolve_alert(alert=alert(), by=admin, note="still ordered")
    for seconds in range(90, 500, 60):
        read(10, seconds)
    assert (alert().state, alert().note, bool(alert().gone_at)) == ("resolved", "still ordered", True)
    assert OperationLog.objects.filter(action="alert.resolved", actor=admin).count() == 2


def test_each_reads_it_in_their_own_language() -> None:
    read(90.04, 0)
    said = {"en": ("Gone", "It went."), "zh-hans": ("没了", "它没了。")}
    services.record([Reading(rule="relay", thing="relay:1", severity=WARNING, said=said)], now=NOW)
    number, told = Alert.objects.order_by("pk")
    with translation.override("en"):
        assert number.text == "web-1: 90.04 % of the disk is used."
        assert (told.title, told.text) == ("Gone", "It went.")
    with translation.override("zh-hans"):
        assert "90.04 %" in number.text
        assert number.text != "web-1: 90.04 % of the disk is used."
        assert told.title == "没了"


def test_a_rule_that_the_panel_has_no_more_is_still_read() -> None:
    read(90, 0)
    Alert.objects.update(rule="gone", values={})
    assert (alert().title, alert().text) == ("gone", "")


def test_a_program_tells_its_own_and_once_a_thing() -> None:
    admin = UserFactory(role=User.Role.ADMIN)
    made = services.send_alert(
        by=admin, severity=WARNING, title="Backup failed", text="No space.", thing="backup"
    )
    again = services.send_alert(by=admin, severity=WARNING, title="Backup failed", thing="backup")
    assert (made.pk, made.title, made.text, made.state) == (again.pk, "Backup failed", "No space.", "active")
    services.resolve_alert(alert=made, by=admin, note="done")
    assert alert().gone_at
    assert (
        services.send_alert(by=admin, severity=WARNING, title="Backup failed", thing="backup").pk != made.pk
    )
    with pytest.raises(accounts.NotAllowed):
        services.send_alert(by=UserFactory(), severity=WARNING, title="x")
    for wrong in ({"severity": "bad", "title": "x"}, {"severity": WARNING, "title": " "}):
        with pytest.raises(AlertRefused):
            services.send_alert(by=admin, **wrong)


def test_who_sees_what() -> None:
    customer = UserFactory()
    read(90, 0, customer=customer.pk)
    assert not Alert.objects.visible_to(UserFactory(role=User.Role.ADMIN))
    read(90, 60, customer=customer.pk)
    assert Alert.objects.visible_to(UserFactory(role=User.Role.ADMIN))
    assert Alert.objects.visible_to(customer)
    assert not Alert.objects.visible_to(UserFactory())


def test_what_nobody_reads_any_more_ends() -> None:
    read(90, 0)
    read(90, 60)
    read(90, 60, thing="server:2")
    services.end_unread(at(3000))
    assert states() == ["active", "pending"]
    services.end_unread(at(3661))
    assert states() == ["cleared"]
    services.prune(at(0))
    assert states() == ["cleared"]
    services.prune(at(401 * 86400))
    assert states() == []
