"""How alerts are told: by severity and kind, at once or once a day, never twice, and by another route where one fails."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import time, timedelta
from typing import Any

import pytest
import responses
import time_machine
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts import push, services, sms
from accounts.alerts import routes, telling
from accounts.alerts.models import Alert
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling
from accounts.alerts.routes import RouteRefused
from accounts.jobs import send_notice, sweep_notices
from accounts.matters import matters
from accounts.models import Notice, OperationLog, User
from accounts.services import notices
from tests.factories import AlertFactory, UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

WECOM = "wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
FEISHU = "feishu://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
# 14:00 in the panel's time zone.
BEGIN = "2026-12-01T06:00:00Z"


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(BEGIN, tick=False) as traveller:
        yield traveller


@pytest.fixture(autouse=True)
def admin(clock: Any) -> User:
    AlertRoute.objects.all().delete()
    return UserFactory(role=User.Role.ADMIN, language="en", email="ops@example.com")


@pytest.fixture
def world() -> Iterator[responses.RequestsMock]:
    """All services take what they are given."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add("POST", re.compile(".*"), json={"errcode": 0, "code": 0})
        yield mock


def route(by: str = "push", address: str = WECOM, **fields: Any) -> AlertRoute:
    admin = User.objects.get(email="ops@example.com")
    name = fields.pop("name", f"route {AlertRoute.objects.count()}")
    return routes.save_route(by=admin, route=AlertRoute(name=name, by=by), address=address, **fields)


def sweep(clock: time_machine.Traveller, seconds: int = 15, times: int = 1) -> None:
    """The clock goes on; the sweep plans, and what is due is sent."""
    for _number in range(times):
        clock.shift(seconds)
        now = timezone.now()
        telling.plan(now)
        telling.recover_lost(now)
        for pk in telling.due(now):
            telling.send(pk)
        sweep_notices()
        for pk in notices.due_notices(now):
            send_notice(pk)


def raised(**fields: Any) -> Alert:
    return AlertFactory(raised_at=timezone.now(), **fields)


def texts(world: responses.RequestsMock) -> list[str]:
    return [
        json.loads(call.request.body or "")["text"]["content"]
        for call in world.calls
        if "weixin" in (call.request.url or "")
    ]


def test_an_alert_is_told_once_and_so_is_its_end(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route()
    alert = raised()
    sweep(clock, times=20)
    (text,) = texts(world)
    assert text.startswith("[warning] A server's disk is almost full")
    assert "web-1: 90 % of the disk is used." in text
    assert text.endswith("http://testserver/admin/alerts/")
    Alert.objects.filter(pk=alert.pk).update(state=Alert.State.CLEARED, gone_at=timezone.now())
    sweep(clock, times=20)
    assert [text.split("]")[0] for text in texts(world)] == ["[warning", "[cleared"]
    assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"sent"}


def test_what_comes_together_is_one_message(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route()
    for _number in range(30):
        raised()
    sweep(clock)
    (text,) = texts(world)
    assert text.startswith("30 alerts")
    assert "and 10 more" in text
    for _number in range(3):
        raised()
        sweep(clock, 20)
    assert len(texts(world)) == 1
    sweep(clock, 120)
    assert texts(world)[1].startswith("3 alerts")


def test_what_becomes_worse_is_told_again(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route()
    alert = raised()
    sweep(clock, times=10)
    Alert.objects.filter(pk=alert.pk).update(severity="critical", raised_at=timezone.now())
    sweep(clock, 60, times=5)
    assert [text.split("]")[0] for text in texts(world)] == ["[warning", "[critical"]


def test_a_route_tells_from_its_severity_on_and_of_its_kinds(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route(severity="critical", kinds=["disk", "relay"])
    raised(severity="warning")
    raised(severity="critical", kind="panel")
    raised(severity="critical", kind="relay", rule="relay")
    raised(severity="critical", state=Alert.State.RESOLVED)
    sweep(clock, times=20)
    assert [text.split("\r\n")[0] for text in texts(world)] == ["[critical] A relay or gate fails"]


def test_what_was_before_a_route_is_not_told(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    raised()
    clock.shift(10)
    route()
    sweep(clock, times=20)
    assert texts(world) == []


def test_quiet_hours_let_only_what_is_critical_through(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route(quiet_from=time(13), quiet_until=time(8))
    raised()
    critical = raised(severity="critical", kind="relay", rule="relay")
    sweep(clock, 60, times=10)
    assert [text.split("\r\n")[0] for text in texts(world)] == ["[critical] A relay or gate fails"]
    Alert.objects.filter(pk=critical.pk).update(state=Alert.State.CLEARED, gone_at=timezone.now())
    sweep(clock, 3600, times=17)
    assert len(texts(world)) == 1
    sweep(clock, 3600, times=3)
    assert len(texts(world)) == 2
    assert "[warning]" in texts(world)[1]
    assert "[cleared]" in texts(world)[1]


def test_warnings_come_once_a_day_in_a_digest(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route(digest_at=time(9))
    raised()
    raised()
    raised(severity="critical")
    sweep(clock, 60, times=3)
    assert [text.split("]")[0] for text in texts(world)] == ["[critical"]
    sweep(clock, 3600, times=24)
    assert texts(world)[1].startswith("2 alerts of the day")
    sweep(clock, 3600, times=24)
    assert len(texts(world)) == 2
    assert sorted(AlertTelling.objects.values_list("what", flat=True)) == ["digest", "digest", "raised"]


def test_every_admin_gets_it_in_their_own_language(
    clock: time_machine.Traveller,
) -> None:
    UserFactory(role=User.Role.SUPERADMIN, language="zh-hans", email="boss@example.com")
    UserFactory(role=User.Role.USER)
    route("staff")
    raised()
    sweep(clock, times=3)
    assert {message.to[0]: message.subject for message in mail.outbox} == {
        "ops@example.com": "[warning] A server's disk is almost full",
        "boss@example.com": "[警告] 服务器磁盘空间不足",
    }
    assert AlertDelivery.objects.get().state == "sent"


def test_a_mail_goes_to_an_address(clock: time_machine.Traveller) -> None:
    made = route("email", "noc@example.com")
    assert (made.label, made.address) == ("noc@example.com", "noc@example.com")
    raised()
    sweep(clock, times=3)
    (message,) = mail.outbox
    assert message.to == ["noc@example.com"]
    assert "90 %" in message.body


def test_what_one_route_cannot_deliver_goes_by_the_next_and_is_seen(clock: time_machine.Traveller) -> None:
    first = route(position=1, kinds=["disk"])
    second = route(address=FEISHU, position=2, kinds=["panel"])
    third = route("email", "noc@example.com", position=3, kinds=["panel"])
    alert = raised()
    with responses.RequestsMock(assert_all_requests_are_fired=False) as world:
        world.add("POST", re.compile(".*qyapi.*"), json={"errcode": 93000, "errmsg": "invalid webhook url"})
        world.add("POST", re.compile(".*feishu.*"), status=500)
        sweep(clock, times=8)
    assert [message.to for message in mail.outbox] == [["noc@example.com"]]
    found = [(told.route, told.delivery.state) for told in alert.tellings.select_related("delivery", "route")]
    assert found == [(first, "waiting"), (second, "waiting"), (third, "sent")]
    assert AlertDelivery.objects.get(route=first).error == "93000 invalid webhook url"
    assert AlertDelivery.objects.get(route=third).instead_of == AlertDelivery.objects.get(route=second)
    # The first is tried again until it takes it, or for an hour.
    with responses.RequestsMock(assert_all_requests_are_fired=False) as world:
        world.add("POST", re.compile(".*qyapi.*"), json={"errcode": 0})
        world.add("POST", re.compile(".*feishu.*"), status=500)
        sweep(clock, 600, times=20)
    states = dict(AlertDelivery.objects.values_list("route__position", "state"))
    assert states == {1: "sent", 2: "failed", 3: "sent"}
    assert len(mail.outbox) == 1


def test_admins_whose_mail_does_not_leave_are_told_by_another_route(
    clock: time_machine.Traveller, world: responses.RequestsMock, settings: Any
) -> None:
    settings.EMAIL_BACKEND = "tests.accounts.test_alert_routes.Refusing"
    route("staff", position=1)
    route(position=2, kinds=["panel"])
    raised()
    sweep(clock, 60, times=2)
    assert texts(world) == []
    sweep(clock, 60, times=4)
    assert len(texts(world)) == 1


class Refusing:
    """A mail server that takes nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def open(self) -> None:
        raise ConnectionRefusedError

    def close(self) -> None:
        pass


def test_what_may_have_arrived_is_not_sent_again_but_goes_by_another_route(
    clock: time_machine.Traveller,
) -> None:
    route(position=1)
    route("email", "noc@example.com", position=2, kinds=["panel"])
    raised()
    clock.shift(15)
    telling.plan(timezone.now())
    (pk,) = telling.due(timezone.now())

    def die(*_given: Any, **_options: Any) -> None:
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push, "send", die)
        with pytest.raises(SystemExit):
            telling.send(pk)
    with responses.RequestsMock() as nobody:
        sweep(clock, 60, times=5)
        assert not nobody.calls
    assert AlertDelivery.objects.get(pk=pk).error == notices.IN_DOUBT
    assert len(mail.outbox) == 1


def test_a_worker_that_dies_before_costs_nothing(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route()
    raised()
    clock.shift(15)
    telling.plan(timezone.now())
    AlertDelivery.objects.update(state="sending", worker="gone", heartbeat_at=timezone.now())
    sweep(clock, 60, times=3)
    assert len(texts(world)) == 1


def test_what_is_over_before_it_left_is_not_told(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route()
    alert = raised()
    clock.shift(15)
    telling.plan(timezone.now())
    Alert.objects.filter(pk=alert.pk).update(state=Alert.State.CLEARED, gone_at=timezone.now())
    sweep(clock, 60, times=5)
    assert texts(world) == []
    assert AlertDelivery.objects.get().state == "dropped"


@pytest.mark.parametrize(
    "moment", ["AlertTelling.objects.bulk_create", "queue.announce", "AlertDelivery.objects.create"]
)
def test_planning_that_dies_or_is_doubled_tells_once(
    clock: time_machine.Traveller, world: responses.RequestsMock, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route()
    raised()
    clock.shift(15)

    def die(*_given: Any, **_options: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(f"accounts.alerts.telling.{moment}", die)
        with pytest.raises(SystemExit):
            telling.plan(timezone.now())
    assert not AlertDelivery.objects.exists()
    # Two who have read the same.
    route_, untold = AlertRoute.objects.get(), list(Alert.objects.all())
    for _number in range(2):
        telling._make(route_, [(alert, AlertTelling.What.RAISED) for alert in untold], timezone.now())
    sweep(clock, times=10)
    assert len(texts(world)) == 1


def test_a_route_is_refused_in_words_and_its_address_is_no_secret_shown(admin: User, settings: Any) -> None:
    with pytest.raises(push.AddressRefused):
        route(address="json://127.0.0.1/")
    with pytest.raises(RouteRefused) as refused:
        route("email", "nobody")
    assert refused.value.field == "address"
    with pytest.raises(RouteRefused) as refused:
        route("sms", "13800000000")
    assert (refused.value.code, refused.value.field) == ("sms_not_configured", "by")
    settings.SMS_ACCESS_KEY_ID = "LTAI"
    with pytest.raises(sms.NumberRefused):
        route("sms", "12")
    with pytest.raises(RouteRefused):
        route(kinds=["nothing"])
    with pytest.raises(RouteRefused):
        route(quiet_from=time(1))
    with pytest.raises(services.NotAllowed):
        routes.save_route(by=UserFactory(), route=AlertRoute(name="x", by="staff"))
    made = route(name="robot")
    with pytest.raises(RouteRefused) as refused:
        route(name="robot")
    assert refused.value.field == "name"
    assert "6aaaaaaa" not in made.label
    assert not [line for line in OperationLog.objects.all() if "6aaaaaaa-" in json.dumps(line.detail)]
    again = routes.save_route(by=admin, route=made, severity="critical")
    assert (again.address, AlertRoute.objects.get().address) == (made.address, made.address)
    assert routes.remove_route(by=admin, route=made)
    assert not routes.remove_route(by=admin, route=made)


def test_a_route_is_tried(admin: User, world: responses.RequestsMock, clock: time_machine.Traveller) -> None:
    routes.try_route(by=admin, route=route())
    assert texts(world)[0].startswith("[test]")
    routes.try_route(by=admin, route=route("staff"))
    assert Notice.objects.get(user=admin).context["alert_subject"].startswith("[test]")
    with responses.RequestsMock() as refusing:
        refusing.add("POST", re.compile(".*"), json={"code": 19024, "msg": "Key Words Not Found"})
        with pytest.raises(push.PushFailed, match="19024"):
            routes.try_route(by=admin, route=route(address=FEISHU))


def test_text_messages_that_are_no_longer_configured_fail_in_words(
    clock: time_machine.Traveller,
    settings: Any,
    admin: User,
    sign_in_with_factor: Callable[[User], Client],
) -> None:
    settings.SMS_ACCESS_KEY_ID = "LTAI"
    route("sms", "13800000000", position=1)
    settings.SMS_ACCESS_KEY_ID = ""
    route("email", "noc@example.com", position=2, kinds=["panel"])
    raised()
    sweep(clock, 30, times=4)
    tried = AlertDelivery.objects.get(route__by="sms")
    assert (tried.error, len(mail.outbox)) == (sms.NOT_CONFIGURED, 1)
    # Long before it is given up it is among what needs a person, who reads why in the list to which that leads.
    assert tried.state == AlertDelivery.State.WAITING
    (matter,) = (matter for matter in matters(timezone.now()) if matter.key == "alerts_untold")
    page = sign_in_with_factor(admin).get(matter.url)
    assert sms.NOT_CONFIGURED in page.content.decode()


def test_a_route_that_is_off_tells_nothing(
    clock: time_machine.Traveller, world: responses.RequestsMock
) -> None:
    route(is_on=False)
    raised()
    sweep(clock, times=10)
    assert not AlertDelivery.objects.exists()


def test_a_new_panel_tells_its_admins() -> None:
    """As a migration has it: at once what is critical, once a day the rest."""
    made = AlertRoute(name="x", by="staff")
    assert "task" not in made.kinds
    assert timedelta(0) < telling.GATHER < telling.FOLD
