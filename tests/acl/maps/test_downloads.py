import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from acl.maps import services
from acl.maps.models import AclConfig, AclEvent
from serials.rentals.models import Rental
from tests.acl.maps.hujson import parse_hujson
from tests.acl.steps import set_paid
from tests.factories import RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db

REFUSALS = {
    "unpaid": lambda rental: set_paid(rental, None),
    "paused": lambda rental: Rental.objects.filter(pk=rental.pk).update(paused_at=timezone.now()),
    "closed": lambda rental: Rental.objects.filter(pk=rental.pk).update(closed_at=timezone.now()),
    "expired": lambda rental: Rental.objects.filter(pk=rental.pk).update(runs_until=timezone.now()),
    "lapsed": lambda _rental: AclConfig.objects.update(ends_at=timezone.now() - timedelta(seconds=1)),
    "no_map": lambda _rental: AclConfig.objects.update(is_active=None),
}


@pytest.fixture
def rental() -> Rental:
    rental = RentalFactory()
    RelayFactory(rental=rental)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


@pytest.fixture
def browser(client: Client, rental: Rental) -> Client:
    client.force_login(rental.user)
    return client


def download(client: Client, file_format: str = "hujson") -> Any:
    return client.get(
        reverse("acl:map-download", args=[file_format]),
        headers={"User-Agent": "Firefox\x00/140 " + "x" * 300, "Accept-Language": "en"},
        REMOTE_ADDR="198.51.100.7",
    )


def taken() -> list[AclEvent]:
    return list(AclEvent.objects.exclude(kind="made").order_by("pk"))


@pytest.mark.parametrize(
    ("file_format", "parse"), [("hujson", parse_hujson), ("yaml", yaml.safe_load), ("json", json.loads)]
)
def test_map_is_a_file_and_logged_when_downloaded(
    browser: Client, rental: Rental, file_format: str, parse: Any
) -> None:
    answer = download(browser, file_format)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == f'attachment; filename="derpmap-v1.{file_format}"'
    assert answer.headers["Cache-Control"] == "private, no-store"
    config = services.active_config(rental)
    assert config
    expected: Any = {"hujson": {"derpMap": config.derp_map}, "json": config.derp_map}.get(file_format)
    found = parse(answer.text)
    assert found == expected if expected else list(found["regions"]) == [901]
    (event,) = taken()
    assert (event.kind, event.file_format, event.version, event.by, event.ip, event.place) == (
        "downloaded",
        file_format,
        1,
        rental.user,
        "198.51.100.7",
        "",
    )
    assert event.browser.startswith("Firefox /140 xx")
    assert len(event.browser) == 200


@pytest.mark.parametrize("code", REFUSALS)
def test_map_is_refused_and_logged_when(browser: Client, rental: Rental, code: str) -> None:
    config = services.active_config(rental)
    assert config
    pin = config.derp_map["Regions"]["901"]["Nodes"][0]["CertName"]
    REFUSALS[code](rental)
    rental.refresh_from_db()
    with pytest.raises(services.DownloadRefused) as refused:
        services.check_download(rental=rental, now=timezone.now())
    assert refused.value.code == code
    answer = download(browser)
    assert answer.status_code == 403
    with translation.override(rental.user.language):
        assert str(answer.context["refusal"]) in answer.text
    assert pin not in answer.text
    assert answer.headers["Cache-Control"] == "private, no-store"
    (event,) = taken()
    assert (event.kind, event.version, event.reason, event.by, event.ip) == (
        "refused",
        None,
        refused.value.reason,
        rental.user,
        "198.51.100.7",
    )
    panel = services.describe_map(rental=rental, now=timezone.now())
    assert (panel.config, panel.tabs, panel.regions) == (None, (), [])
    assert panel.refusal == str(refused.value)
    assert len(taken()) == 1
    page = browser.get(reverse("acl:map-howto"))
    assert pin not in page.text


def test_map_is_handed_out_again_when_paid_later(browser: Client, rental: Rental) -> None:
    set_paid(rental, None)
    assert download(browser).status_code == 403
    set_paid(rental, timezone.now())
    assert download(browser).status_code == 200
    assert [event.kind for event in taken()] == ["refused", "downloaded"]


def test_page_says_why_when_there_is_no_rental(client: Client) -> None:
    client.force_login(UserFactory())
    answer = download(client)
    assert answer.status_code == 403
    assert str(answer.context["refusal"]) in answer.text
    assert client.get(reverse("acl:map-howto")).status_code == 200
    assert client.get(reverse("acl:map-history")).status_code == 200


def test_each_gets_his_own_map_when_two_are_signed_in(client: Client, rental: Rental) -> None:
    other = RentalFactory()
    relay = RelayFactory(rental=other)
    services.refresh_map(rental=other, reason=services.RELAYS_CHANGED)
    staff = UserFactory(role="superadmin")
    client.force_login(other.user)
    answer = download(client, "json")
    assert relay.certificate_sha256 in answer.text
    assert rental.relays.get().certificate_sha256 not in answer.text
    client.force_login(staff)
    assert download(client).status_code == 403
    assert {event.rental_id for event in taken()} == {other.pk}


@pytest.mark.parametrize("name", ["map-howto", "map-history"])
def test_sign_in_is_asked_for_when_a_stranger_comes(client: Client, name: str) -> None:
    assert client.get(reverse(f"acl:{name}")).status_code == 302
    assert download(client).status_code == 302
    assert client.post(reverse("acl:map-copied", args=["json"])).status_code == 302
    assert not taken()


def test_page_is_not_found_when_the_format_is_unknown(browser: Client) -> None:
    assert download(browser, "xml").status_code == 404
    assert browser.post(reverse("acl:map-copied", args=["xml"])).status_code == 404
    assert not taken()


def test_copy_counts_as_a_download_when_the_page_reports_it(rental: Rental) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(rental.user)
    url = reverse("acl:map-copied", args=["hujson"])
    assert client.post(url).status_code == 403  # without the page's token
    assert not taken()
    assert client.get(url).status_code == 405
    page = client.get(reverse("acl:map-howto"))
    token = page.context["csrf_token"]
    assert client.post(url, {"shown": "1"}, headers={"X-CSRFToken": str(token)}).status_code == 204
    (event,) = taken()
    assert (event.kind, event.version, event.reason, event.file_format) == (
        "downloaded",
        1,
        services.COPIED,
        "hujson",
    )
    set_paid(rental, None)
    answer = client.post(url, {"shown": "1"}, headers={"X-CSRFToken": str(token)})
    assert answer.status_code == 403
    assert taken()[-1].kind == "refused"


def test_version_that_was_shown_counts_as_copied_when_there_is_a_newer_one(
    browser: Client, rental: Rental
) -> None:
    url = reverse("acl:map-copied", args=["hujson"])
    page = browser.get(reverse("home-map"))
    assert 'data-shown="1"' in page.text
    RelayFactory(rental=rental, slot=2)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert browser.post(url, {"shown": "1"}).status_code == 204
    assert [event.version for event in taken()] == [1]
    page = browser.get(reverse("home-map"))
    assert 'data-shown="2"' in page.text
    assert page.context["map"].paste.must_paste
    assert browser.post(url, {"shown": "2"}).status_code == 204
    assert not browser.get(reverse("home-map")).context["map"].paste.must_paste
    # The older window once more: what was copied last is what has been pasted.
    assert browser.post(url, {"shown": "1"}).status_code == 204
    assert browser.get(reverse("home-map")).context["map"].paste.taken == 1


@pytest.mark.parametrize("shown", ["2", "0", "-1", "9" * 30, "x", ""])
def test_copy_is_not_counted_when_the_customer_never_had_that_version(browser: Client, shown: str) -> None:
    other = RentalFactory()
    for slot in (1, 2):
        RelayFactory(rental=other, slot=slot)
        services.refresh_map(rental=other, reason=services.RELAYS_CHANGED)
    assert services.active_config(other).version == 2  # type: ignore[union-attr]
    assert browser.post(reverse("acl:map-copied", args=["json"]), {"shown": shown}).status_code == 404
    assert not taken()


@pytest.mark.slow
def test_downloads_are_limited_when_somebody_takes_them_by_the_hundred(browser: Client) -> None:
    statuses = [download(browser).status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]
    assert len(taken()) == 60


def export(*arguments: str) -> str:
    out = StringIO()
    call_command("acl_export", *arguments, stdout=out)
    return out.getvalue()


def test_command_writes_the_map_when_there_is_one(rental: Rental) -> None:
    config = services.active_config(rental)
    assert config
    email = rental.user.email.upper()
    assert parse_hujson(export(email)) == {"derpMap": config.derp_map}
    assert json.loads(export(email, "--format", "json")) == config.derp_map
    assert list(yaml.safe_load(export(email, "--format=yaml"))["regions"]) == [901]
    whole = json.loads(export(email, "--format", "json", "--json"))
    assert (whole["version"], json.loads(whole["text"])) == (1, config.derp_map)
    assert [(event.kind, event.by) for event in taken()] == [("downloaded", None)] * 4


@pytest.mark.parametrize("code", REFUSALS)
def test_command_fails_with_the_reason_when(rental: Rental, code: str) -> None:
    REFUSALS[code](rental)
    with pytest.raises(CommandError) as failed:
        export(rental.user.email)
    assert str(failed.value) == str(services.DownloadRefused(code))
    assert [event.kind for event in taken()] == ["refused"]


def test_command_fails_when_nobody_has_that_address() -> None:
    with pytest.raises(CommandError, match=r"nobody@example\.com"):
        export("nobody@example.com")
