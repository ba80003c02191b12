"""Alerts as operators, programs and customers meet them: pages, commands, the API."""

import json
import re
from io import StringIO
from typing import Any

import pytest
import responses
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.alerts.jobs import sweep_alerts
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute, AlertTelling
from accounts.models import Notice, OperationLog, User
from tests.api import Api
from tests.factories import AlertFactory, RentalFactory, ServerFactory, UserFactory
from tests.panel import world

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

WECOM = "wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


@pytest.fixture
def staff() -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def test_an_operator_resolves_an_alert_with_a_note(staff: Client) -> None:
    alert = AlertFactory(url="/admin/fleet/server/1/change/")
    route = AlertRoute.objects.create(name="robot", by="push", label="WeCom ••••eeee")
    delivery = AlertDelivery.objects.create(
        route=route, key="x", what="alerts", state="failed", error="93000 invalid"
    )
    AlertTelling.objects.create(
        alert=alert, route=route, delivery=delivery, what="raised", severity="warning"
    )
    listed = staff.get("/admin/accounts/alert/?state__exact=active").content.decode()
    assert "A server&#x27;s disk is almost full" in listed
    page = staff.get(f"/admin/accounts/alert/{alert.pk}/change/").content.decode()
    assert "web-1: 90 % of the disk is used." in page
    assert "93000 invalid" in page
    act = f"/admin/accounts/alert/{alert.pk}/resolve/do/"
    assert "While the cause lasts" in staff.get(act).content.decode()
    assert "This field is required" in staff.post(act, {"note": " "}).content.decode()
    assert "is resolved." in staff.post(act, {"note": "cleaned up"}, follow=True).content.decode()
    assert "not active any more" in staff.post(act, {"note": "again"}, follow=True).content.decode()
    alert.refresh_from_db()
    assert (alert.state, alert.note) == ("resolved", "cleaned up")
    assert OperationLog.objects.get(action="alert.resolved").actor == alert.resolved_by


def test_many_are_resolved_at_once(staff: Client) -> None:
    pks = [AlertFactory().pk for _number in range(3)]
    staff.post("/admin/accounts/alert/ticked/resolve/do/", {"row": pks[:2], "note": "all of it"}, follow=True)
    assert sorted(Alert.objects.values_list("state", flat=True)) == ["active", "resolved", "resolved"]


def test_the_alerts_page_leads_to_each_alert(staff: Client) -> None:
    server = ServerFactory(whole=True, status="unhealthy", last_visit_at=timezone.now())
    measured = AlertFactory()
    sweep_alerts()
    alert = Alert.objects.get(server=server.pk)
    page = staff.get("/admin/alerts/").content.decode()
    for pk in (alert.pk, measured.pk):
        assert f'href="/admin/accounts/alert/{pk}/change/"' in page
    assert "web-1: 90 % of the disk is used." in page


def test_a_rule_is_changed_for_one_server_and_set_back(staff: Client) -> None:
    server = ServerFactory(whole=True)
    form = {
        "rule": "disk",
        "server": server.pk,
        "is_on": "on",
        "severity": "",
        "warning": "70",
        "critical": "80",
    }
    assert staff.post("/admin/accounts/alertrule/add/", form).status_code == 302
    again = staff.post("/admin/accounts/alertrule/add/", form)
    assert "This rule is changed for this server already." in again.content.decode()
    row = AlertRule.objects.get()
    assert (row.server, row.warning) == (server.pk, 70)
    url = f"/admin/accounts/alertrule/{row.pk}/"
    assert server.name in staff.get(f"{url}change/").content.decode()
    staff.post(f"{url}change/", form | {"warning": "60"})
    row.refresh_from_db()
    assert (row.server, row.warning) == (server.pk, 60)
    staff.post(f"{url}reset/do/", follow=True)
    assert not AlertRule.objects.exists()
    assert list(OperationLog.objects.filter(action__startswith="alert_rule").values_list("action", flat=True)) == [
        "alert_rule.reset", "alert_rule.changed", "alert_rule.changed",
    ]  # fmt: skip


def test_a_route_is_made_tried_changed_and_removed(staff: Client) -> None:
    form = {
        "name": "robot",
        "by": "push",
        "target": "json://127.0.0.1/",
        "severity": "critical",
        "kinds": ["disk"],
        "position": "1",
        "is_on": "on",
    }
    refused = staff.post("/admin/accounts/alertroute/add/", form).content.decode()
    assert "none of the services" in refused
    sms = staff.post(
        "/admin/accounts/alertroute/add/", form | {"by": "sms", "target": "13800000000"}
    ).content.decode()
    assert "Text messages are not configured." in sms
    assert staff.post("/admin/accounts/alertroute/add/", form | {"target": WECOM}).status_code == 302
    route = AlertRoute.objects.get(name="robot")
    assert (route.address, route.kinds, route.language) == (f"{WECOM}/", ["disk"], "en")
    url = f"/admin/accounts/alertroute/{route.pk}/"
    for page in (f"{url}change/", "/admin/accounts/alertroute/"):
        assert "6aaaaaaa" not in staff.get(page).content.decode()
    with responses.RequestsMock() as internet:
        internet.add("POST", re.compile(".*"), json={"errcode": 0})
        assert "took a test message" in staff.post(f"{url}test/do/", follow=True).content.decode()
    with responses.RequestsMock() as internet:
        internet.add("POST", re.compile(".*"), json={"errcode": 93000, "errmsg": "invalid webhook url"})
        assert "93000 invalid webhook url" in staff.post(f"{url}test/do/", follow=True).content.decode()
    staff.post(f"{url}change/", form | {"target": "", "severity": "warning"})
    route.refresh_from_db()
    assert (route.severity, route.address) == ("warning", f"{WECOM}/")
    staff.post(f"{url}remove/do/", follow=True)
    assert not AlertRoute.objects.filter(name="robot").exists()


def rows(command: str, *arguments: str) -> Any:
    out = StringIO()
    call_command(command, *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_commands_list_and_resolve() -> None:
    alert, over = AlertFactory(), AlertFactory(state="cleared", gone_at=timezone.now())
    AlertFactory(state="pending", raised_at=None)
    assert [row["id"] for row in rows("alert_list")] == [over.pk, alert.pk]
    (row,) = rows("alert_list", "--open")
    assert (row["name"], row["severity"], row["state"]) == ("web-1", "warning", "active")
    (row,) = rows("alert_resolve", str(alert.pk), "--note", "done")
    assert (row["state"], row["note"]) == ("resolved", "done")
    assert rows("alert_list", "--open") == []
    with pytest.raises(CommandError):
        call_command("alert_resolve", "999", "--note", "x")


def test_programs_list_send_and_resolve() -> None:
    admin, customer = UserFactory(role=User.Role.ADMIN), UserFactory()
    AlertFactory(
        rule="relay",
        kind="relay",
        customer=customer,
        server=5,
        values={"said": {"en": ["secret-server failed", "words"]}, "own": {"en": "Tokyo 1 does not run."}},
    )
    AlertFactory()
    operator, own = Api(admin), Api(customer)
    assert len(operator.get("monitoring/alerts").json()["alerts"]) == 2
    (shown,) = own.get("monitoring/alerts").json()["alerts"]
    assert (shown["kind"], shown["text"], shown["name"], shown["server_id"]) == (
        "relay",
        "Tokyo 1 does not run.",
        "",
        None,
    )
    assert "secret-server" not in json.dumps(shown)
    sent = operator.post(
        "monitoring/alerts/send", {"title": "Backup failed", "severity": "critical", "thing": "backup"}
    )
    assert sent.status_code == 200, sent.content
    pk = sent.json()["alert_id"]
    again = operator.post("monitoring/alerts/send", {"title": "Backup failed", "thing": "backup"})
    assert again.json()["alert_id"] == pk
    assert own.post("monitoring/alerts/send", {"title": "x"}).status_code == 403
    assert own.post(f"monitoring/alerts/{pk}/resolve", {"note": "x"}).status_code in {403, 404}
    resolved = operator.post(f"monitoring/alerts/{pk}/resolve", {"note": "ran again"}).json()
    assert resolved["state"] == "resolved"
    assert operator.get("monitoring/alerts", {"state": "active", "kind": "message"}).json()["alerts"] == []


def test_what_is_told_to_admins_is_a_notice_of_theirs() -> None:
    """By the route that every panel begins with; a warning waits for the digest."""
    admin = UserFactory(role=User.Role.ADMIN)
    route = AlertRoute.objects.get()
    assert (route.by, route.severity, f"{route.digest_at:%H:%M}") == ("staff", "warning", "09:00")
    long_ago = timezone.now() - timezone.timedelta(minutes=1)
    AlertRoute.objects.update(created_at=long_ago)
    AlertFactory(severity="critical", raised_at=long_ago)
    sweep_alerts()
    assert Notice.objects.filter(user=admin, kind="alert").count() == 1


def test_a_customers_page_in_the_admin_has_what_concerns_them_and_leads_to_the_list(staff: Client) -> None:
    customer, other = RentalFactory().user, UserFactory()
    AlertFactory(customer=customer, values={"value": "91 %"}, state="cleared", gone_at=timezone.now())
    AlertFactory(customer=customer, values={"value": "92 %"})
    AlertFactory(customer=other, values={"value": "93 %"})
    page = staff.get(f"/admin/accounts/user/{customer.pk}/change/?tab=alerts").content.decode()
    assert page.index("92 %") < page.index("91 %")
    assert "93 %" not in page
    link = f"/admin/accounts/alert/?customer__id__exact={customer.pk}&state__exact=active"
    assert link.replace("&", "&amp;") in page
    listed = staff.get(link).content.decode()
    assert listed.count("field-what") == 1


def test_a_servers_page_has_its_alerts_and_no_others(staff: Client) -> None:
    server = ServerFactory(whole=True)
    AlertFactory(server=server.pk, values={"value": "91 %"})
    AlertFactory(server=server.pk, values={"value": "92 %"}, state="cleared", gone_at=timezone.now())
    AlertFactory(server=server.pk + 1, values={"value": "93 %"})
    page = staff.get(f"/admin/fleet/server/{server.pk}/change/?tab=alerts").content.decode()
    assert page.index("91 %") < page.index("92 %")
    assert "93 %" not in page
    assert staff.get(f"/admin/accounts/alertrule/?server__exact={server.pk}").status_code == 200


def test_limits_of_a_rule_are_said_with_their_unit() -> None:
    rule = AlertRule.objects.create(rule="disk", warning=70, critical=85.5)
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    page = client.get("/admin/accounts/alertrule/").text
    assert "70 %" in page
    assert "85.5 %" in page
    page = client.get(f"/admin/accounts/alertrule/{rule.pk}/change/").text
    assert page.count("<div>%</div>") == 2
