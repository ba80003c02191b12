"""Every button of the admin: a page says what it will do to whom, one click does it and says what happened, a second one does nothing."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.utils import timezone, translation

from accounts import services as accounts
from accounts.acts import Act, ActsMixin
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertRoute
from accounts.models import Notice, OperationLog, PutOff, User
from acl.devices.models import Device
from acl.maps.models import AclConfig, LiveUrl
from containers.models import Gate, Relay
from fleet.models import Server
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals import services as rentals
from serials.rentals.models import Rental
from tests.factories import (
    AlertFactory,
    PutOffFactory,
    SerialBatchFactory,
    SerialNumberFactory,
    ServerFactory,
)
from tests.panel import world
from tests.panel.staffed import boss as boss
from tests.panel.staffed import rental as rental

pytestmark = pytest.mark.django_db


def said(text: str) -> list[str]:
    """What the page tells of what was done."""
    toasts = re.findall(r'<div class="panel-toast .*?<span>(.*?)</span>', text, re.DOTALL)
    return [unescape(toast) for toast in toasts]


def the_acts() -> Iterator[tuple[type[Model], Act]]:
    for model, page in admin.site._registry.items():
        if isinstance(page, ActsMixin):
            for act in page.acts:
                yield model, act


def ready(rental: Rental, model: type[Model], verb: str) -> tuple[Any, dict[str, Any], str]:
    """A row at which the button is there, what its form needs, and whom or what it is about."""
    user, relay, data = rental.user, rental.relays.get(slot=1), {}
    row: Any = {
        User: user,
        Rental: rental,
        Server: ServerFactory(whole=True),
        Relay: relay,
        Gate: Gate.objects.get(server=relay.server_id),
        AclConfig: rental.acl_configs.get(),
        LiveUrl: rental.live_urls.get(),
        Device: rental.devices.filter(status=Device.Status.PENDING).first(),
        SerialNumber: SerialNumberFactory(),
        Notice: user.notices.first(),
        PutOff: PutOffFactory(row=rental.pk),
        SerialBatch: SerialBatchFactory(is_paid=verb == "mark-unpaid"),
        Alert: AlertFactory(values={"said": {"en": ["Backup failed", ""]}}),
        AlertRule: AlertRule.objects.get_or_create(rule="disk")[0],
        AlertRoute: AlertRoute.objects.get_or_create(name="robot", by="staff")[0],
    }[model]
    name = str(user) if model in {User, Rental, AclConfig, LiveUrl, Notice, PutOff} else str(row)
    if model is AlertRule:
        with translation.override("en"):
            name = str(row)
    if model in {Relay, Gate}:
        name = str(relay.server)
    if (model, verb) == (User, "unban"):
        accounts.ban_user(user=user, by=None)
    elif (model, verb) == (User, "reset-second-factor"):
        accounts.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
    elif (model, verb) == (Rental, "renew"):
        data = {"until": f"{timezone.localdate().year + 1}-06-01"}
    elif model is Alert:
        data = {"note": "cleaned up"}
    elif verb == "limits":
        data = {"both_gb": "5"}
    elif (model, verb) == (Rental, "traffic"):
        data = {"size_gb": "0.5", "after": 0}
    elif (model, verb) == (Rental, "resume"):
        rentals.pause_rental(rental=rental, by=None)
    elif (model, verb) == (Server, "end-maintenance"):
        Server.objects.filter(pk=row.pk).update(status=Server.Status.MAINTENANCE)
    elif (model, verb) == (Server, "end-draining"):
        Server.objects.filter(pk=row.pk).update(status=Server.Status.DRAINING)
    elif (model, verb) == (Relay, "retry"):
        Relay.objects.filter(pk=row.pk).update(status=Relay.Status.FAILED)
    elif (model, verb) == (Relay, "move"):
        data = {"server": ServerFactory(whole=True).pk}
    elif (model, verb) == (Relay, "release"):
        ServerFactory(whole=True)
    elif (model, verb) == (Notice, "again"):
        Notice.objects.filter(pk=row.pk).update(state=Notice.State.FAILED)
    elif (model, verb) == (Device, "give-place"):
        rental.spans.update(device_limit=rental.devices.filter(status=Device.Status.APPROVED).count())
        data = {"holder": rental.devices.filter(status=Device.Status.APPROVED)[0].pk}
    return row, data, name


# What may be done again and again.
REPEATABLE = {
    (AclConfig, "renew"),
    (Gate, "retry"),
    (SerialNumber, "reveal"),
    (Relay, "retry"),
    (AlertRoute, "test"),
}
# After which the row is gone.
REMOVING = {(AlertRule, "reset"), (AlertRoute, "remove")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "act"), list(the_acts()), ids=[f"{model.__name__}-{act.verb}" for model, act in the_acts()]
)
def test_each_button_says_what_it_will_do_does_it_and_says_what_happened(
    boss: Client, rental: Rental, model: type[Model], act: Act
) -> None:
    row, data, name = ready(rental, model, act.verb)
    stem = f"/admin/{model._meta.app_label}/{model._meta.model_name}/{row.pk}"
    url = f"{stem}/{act.verb}/do/"
    assert url in boss.get(f"{stem}/change/").content.decode()
    before = OperationLog.objects.count()

    page = boss.get(url)
    assert page.status_code == 200
    assert name in " ".join(page.context["explanation"])
    assert OperationLog.objects.count() == before

    answer = boss.post(url, data, follow=True)
    sentences = said(answer.content.decode())
    if answer.context.get("shown"):
        return
    assert len(sentences) == 1
    assert name in sentences[0]
    assert answer.redirect_chain

    done = OperationLog.objects.count()
    again = said(boss.post(url, data, follow=True).content.decode())
    if (model, act.verb) in REPEATABLE:
        return
    assert OperationLog.objects.count() == done
    if (model, act.verb) in REMOVING:
        assert boss.post(url, data).status_code == 404
    elif (model, act.verb) == (Rental, "renew"):  # whose form says why it is refused
        assert "never shortens" in boss.post(url, data).content.decode()
    else:
        assert len(again) == 1
        assert again != sentences


def test_a_ban_says_how_many_relays_stop(boss: Client, rental: Rental) -> None:
    url = f"/admin/accounts/user/{rental.user_id}/ban/do/"
    assert "3 relays stop with it." in boss.get(url).content.decode()
    assert said(boss.post(url, follow=True).content.decode()) == [
        f"{rental.user} is banned; open sessions have ended. 3 relays stop with it."
    ]


def test_what_was_typed_is_kept_when_it_is_refused(boss: Client, rental: Rental) -> None:
    url = f"/admin/serials/rental/{rental.pk}/renew/do/"
    for day, words in (("2020-01-01", "later than"), ("soon", "valid date")):
        answer = boss.post(url, {"until": day})
        assert (answer.status_code, answer.redirect_chain if hasattr(answer, "redirect_chain") else []) == (
            200,
            [],
        )
        assert f'value="{day}"' in answer.content.decode()
        assert answer.context["form"].errors, words
    assert rental.redemptions.count() == 1


def test_a_server_with_relays_is_not_removed_and_the_page_says_why(boss: Client, rental: Rental) -> None:
    server = rental.relays.get(slot=1).server
    url = f"/admin/fleet/server/{server.pk}/retire/do/"
    for answer in (boss.get(url), boss.post(url)):
        text = answer.content.decode()
        assert "The server still holds relays" in text
        assert '<form method="post" data-once>' not in text
    server.refresh_from_db()
    assert server.status == Server.Status.HEALTHY


def test_a_button_needs_the_right_and_the_row(rental: Rental, boss: Client) -> None:
    other = User.objects.get(pk=boss.session["_auth_user_id"])
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    url = f"/admin/accounts/user/{other.pk}/ban/do/"
    assert (staff.get(url).status_code, staff.post(url).status_code) == (403, 403)
    assert url not in staff.get(f"/admin/accounts/user/{other.pk}/change/").content.decode()
    assert boss.post(f"/admin/accounts/user/{other.pk}/ban/do/").status_code == 403
    assert staff.post("/admin/accounts/user/999999/ban/do/").status_code == 404
    assert staff.post(f"/admin/accounts/user/{rental.user_id}/nonsense/do/").status_code == 404
    customer = world.sign_in(rental.user)
    assert customer.post(f"/admin/accounts/user/{rental.user_id}/ban/do/").status_code in {302, 403}
    assert not User.objects.filter(banned_at__isnull=False).exists()


def test_the_page_of_a_button_names_only_what_one_fills_in(rental: Rental) -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    page = client.get(f"/admin/serials/rental/{rental.pk}/traffic/do/").text
    assert 'name="after"' in page
    assert "After" not in page
    assert "备注：</label>" in page
    assert ">保存</button>" in client.get(f"/admin/serials/rental/{rental.pk}/limits/do/").text
