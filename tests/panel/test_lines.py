"""Texts of one line that people give stay on one line, whichever way they come in: pages, commands, services."""

from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import models
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from accounts import services as accounts
from accounts.forms import AddKeyForm, AdminCloseForm, RenameKeyForm
from accounts.models import Notice, OperationLog
from acl.devices.services import rename_device
from derpmgmt.lib.lines import LineField, LineFormField, one_line
from fleet import services as fleet
from fleet.models import ProviderAccount, Region, Server, SshCredential
from serials.numbers import services as numbers
from serials.numbers.models import SerialBatch
from serials.rentals import services as rentals
from serials.rentals.forms import PauseForm
from serials.rentals.models import Redemption, Rental
from tests.factories import (
    AddedDeviceFactory,
    ProviderAccountFactory,
    RegionFactory,
    RentalFactory,
    WholeRentalFactory,
)
from tests.panel import world

OURS = ("accounts", "acl", "billing", "containers", "distribution", "fleet", "serials")
# What the panel itself writes, or what has a rule of its own that knows no line breaks.
OTHERWISE = {
    "accounts.AlertRule.rule",
    "accounts.BrandPicture.content_type", "accounts.BrandPicture.digest", "accounts.BrandSettings.accent", "accounts.BrandSettings.buy_url",
    "accounts.BrandSettings.privacy_url", "accounts.BrandSettings.terms_url",
    "accounts.Notice.error", "accounts.Notice.key", "accounts.Notice.kind", "accounts.Notice.language",
    "accounts.Notice.target", "accounts.OperationLog.action", "accounts.PutOff.exception", "accounts.PutOff.work", "accounts.User.first_name", "accounts.User.language",
    "accounts.User.last_name", "accounts.User.password", "accounts.User.username", "acl.AclConfig.reason", "acl.AclEvent.browser",
    "acl.AclEvent.file_format", "acl.AclEvent.place", "acl.AclEvent.reason", "acl.Admission.node_key", "acl.Admission.place",
    "acl.Device.came_from", "acl.Device.last_place", "acl.Device.node_key", "acl.DevicePolicy.verify_problem",
    "acl.LiveUrl.last_browser", "containers.Deployment.error_code", "containers.Deployment.step", "containers.Deployment.worker",
    "containers.ServerCheck.error_code", "containers.ServerCheck.step", "containers.ServerCheck.worker", "containers.RelayHealth.cause", "containers.RelayHealth.detail", "containers.RelayHealth.step",
    "fleet.Server.docker_socket", "fleet.HourDue.series",
    "containers.TrafficCounter.epoch", "containers.TrafficError.doubt", "containers.TrafficError.received_bytes",
    "containers.TrafficError.sent_bytes",
}  # fmt: skip
# A line break of each kind, tab, NUL, escape, the sign that turns the text around, one half of a pair, and spaces around.
TYPED = " a\nb\r\nc\u2028d\u2029e\x85f\x0bg\th\0i\x1b[31mj\u202ek\ud800l \u3000m\n"
KEPT = "a b c d e f g h i [31mj k l m"


@given(st.text())
def test_a_line_holds_nothing_that_cannot_be_printed(text: str) -> None:
    kept = one_line(text)
    assert kept == one_line(kept)
    assert len(kept.splitlines()) <= 1
    assert kept.isprintable()


def test_what_can_be_printed_stays_as_it_is() -> None:
    text = "上海 1 · “web-01” (für Ä/é) 中继，👍 #3 <b> & 100%"
    assert one_line(text) == text


def test_every_text_that_a_person_gives_is_of_this_kind() -> None:
    texts = [
        field
        for model in apps.get_models()
        if model._meta.app_label in OURS
        for field in model._meta.local_fields
        if isinstance(field, models.CharField) and field.editable and not field.choices
    ]
    of_a_kind = (LineField, models.EmailField, models.SlugField)
    others = {
        f"{field.model._meta.label}.{field.name}" for field in texts if not isinstance(field, of_a_kind)
    }
    assert others == OTHERWISE
    assert isinstance(SerialBatch._meta.get_field("name"), LineField)


def test_a_field_of_a_form_counts_its_length_as_it_is_kept() -> None:
    field = LineFormField(max_length=3)
    assert field.clean("\n a\t\tb \n") == "a b"
    for wrong in ("\n\0", "abcd"):
        with pytest.raises(ValidationError):
            field.clean(wrong)
    for form in (PauseForm, AdminCloseForm):
        filled: Any = form({"reason": TYPED})
        assert filled.is_valid()
        assert filled.cleaned_data["reason"] == KEPT
    for key_form in (AddKeyForm, RenameKeyForm):
        assert isinstance(key_form.base_fields["name"], LineFormField)


@pytest.mark.django_db
def test_services_and_plain_writes_keep_one_line() -> None:
    region = RegionFactory(new=True)
    credential = fleet.save_credential(name=TYPED, username="ro\not", private_key="x", by=None)
    assert (credential.name, credential.username) == (KEPT, "ro ot")
    # The same name, typed in another way, is the same credential.
    assert fleet.save_credential(name=KEPT, username="root", private_key="y", by=None).pk == credential.pk
    server = fleet.create_server(
        by=None, name=TYPED, region=region, address="203.0.113.1", credential=credential
    )
    assert server.name == KEPT
    with pytest.raises(ValidationError):
        fleet.create_server(by=None, name=KEPT, region=region, address="203.0.113.2", credential=credential)
    fleet.update_server(server=server, by=None, name="x\n")
    Region.objects.filter(pk=region.pk).update(name_zh=TYPED, name_en=TYPED)
    account = ProviderAccountFactory(provider=TYPED, name=TYPED)
    region.refresh_from_db()
    assert (Server.objects.get().name, region.name_zh, region.name_en) == ("x", KEPT, KEPT)
    assert (account.provider, account.name) == (KEPT, KEPT)
    assert ProviderAccount.objects.get(name=TYPED).pk == account.pk
    assert SshCredential.objects.filter(name=KEPT).exists()
    assert set(OperationLog.objects.filter(action="server.created").values_list("target", flat=True)) == {
        KEPT
    }


@pytest.mark.django_db
def test_a_name_of_nothing_is_none() -> None:
    with pytest.raises(ValidationError) as refused:
        numbers.create_batch(name="\n\0 ", days=1, count=1, by=None, is_paid=True)
    assert list(refused.value.message_dict) == ["name"]


@pytest.mark.django_db
def test_reasons_and_notes_are_one_line_in_the_log_and_in_mails() -> None:
    rental = RentalFactory()
    call_command("rental_pause", rental.user.email, "--reason", TYPED, stdout=StringIO(), stderr=StringIO())
    assert OperationLog.objects.get(action="rental.paused").detail["reason"] == KEPT
    assert Notice.objects.get(kind="rental_paused").context["reason"] == KEPT
    rentals.resume_rental(rental=Rental.objects.get(), by=None)
    rental.refresh_from_db()
    assert rental.ends_at is not None
    rentals.renew_rental(
        rental=rental, until=rental.ends_at.replace(year=rental.ends_at.year + 1), by=None, note=TYPED
    )
    assert Redemption.objects.latest("pk").note == KEPT
    assert OperationLog.objects.get(action="rental.renewed").detail["note"] == KEPT
    accounts.ban_user(user=rental.user, by=None, reason=TYPED)
    assert OperationLog.objects.get(action="user.banned").detail["reason"] == KEPT
    accounts.close_account(user=rental.user, by=None, reason=TYPED)
    rental.user.refresh_from_db()
    assert rental.user.closing_reason == KEPT
    assert OperationLog.objects.get(action="user.closing").detail["reason"] == KEPT


@pytest.mark.django_db(transaction=True)
def test_pages_keep_one_line() -> None:
    client = world.enter("superadmin", has_factor=True)
    # A browser sends no halves of pairs.
    typed = TYPED.replace("\ud800", "")
    kept = KEPT.replace(" l", "l")
    pages: list[tuple[str, dict[str, Any], type[models.Model], str]] = [
        ("admin:serials_serialbatch_add",
         {"name": typed, "days": 1, "count": 1, "device_limit": 5, "at_quota": "nothing"}, SerialBatch, "name"),
        ("admin:fleet_region_add", {"code": "zz", "name_zh": typed, "name_en": "x"}, Region, "name_zh"),
        ("admin:fleet_provideraccount_add", {"provider": "x", "name": typed, "phone": "138\n1"}, ProviderAccount, "name"),
        ("admin:fleet_sshcredential_add", {"name": typed, "username": "root", "password": "x"}, SshCredential, "name"),
    ]  # fmt: skip
    for page, values, model, field in pages:
        answer = client.post(reverse(page), values)
        assert answer.status_code == 302, answer.context["errors"]
        assert model.objects.filter(**{field: kept}).exists(), page  # type: ignore[attr-defined]
        assert kept in [getattr(row, field) for row in model.objects.all()]  # type: ignore[attr-defined]
    assert ProviderAccount.objects.get().phone == "138 1"
    device = AddedDeviceFactory(rental=WholeRentalFactory(), is_let_in=True)
    rename_device(device=device, name=TYPED, by=None)
    device.refresh_from_db()
    assert device.name == KEPT
