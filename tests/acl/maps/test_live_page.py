"""The page on which a customer makes, copies and revokes their live URL, and sees who fetched it."""

import re
from datetime import timedelta
from typing import Any

import pytest
import yaml
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import OperationLog
from acl.maps import copies, derpmap, services
from acl.maps.models import AclConfig, LiveUrl
from serials.rentals.models import Rental
from tests.acl.reading import get
from tests.factories import AclEventFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db

CHANGED = "This has changed meanwhile, perhaps in another window: nothing was done."


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_live_page_shows_address_lines_and_last_fetch(client: Client, rental: Rental, language: str) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    page = client.get(reverse("acl:live-show"))
    assert reverse("acl:live-create") in page.text
    assert "/live/" not in page.text.replace("/map/live/", "")
    page = client.post(reverse("acl:live-create"), {"shown": ""}, follow=True)
    url = LiveUrl.objects.get()
    address = services.live_address(url)
    # The address, in the lines for cron, and in those for Headscale that reads it itself.
    assert page.text.count(address) == 3
    assert page.headers["Cache-Control"] == "private, no-store"
    lines = yaml.safe_load(page.context["live"].lines)["derp"]
    assert lines["urls"] == [address, derpmap.DEFAULT_MAP_URL]
    assert lines["auto_update_enabled"] is True
    lines = yaml.safe_load(page.context["live"].file_lines)["derp"]
    assert (lines["urls"], lines["paths"]) == ([derpmap.DEFAULT_MAP_URL], [derpmap.HEADSCALE_PATH])
    assert lines["auto_update_enabled"] is True
    assert "0.27" in page.text
    LiveUrl.objects.update(
        last_fetched_at=timezone.now(), last_ip="198.51.100.7", last_browser="<b>headscale"
    )
    page = client.get(reverse("acl:live-show"))
    assert "198.51.100.7" in page.text
    assert "&lt;b&gt;headscale" in page.text
    assert 'alert alert-warning"' not in page.text
    Rental.objects.update(paused_at=timezone.now())
    assert 'alert alert-warning"' in client.get(reverse("acl:live-show")).text
    client.post(reverse("acl:live-revoke"), {"shown": url.pk})
    assert address not in client.get(reverse("acl:live-show")).text
    assert list(
        OperationLog.objects.filter(action__startswith="live").order_by("pk").values_list("action", flat=True)
    ) == ["live_url.created", "live_url.revoked"]


def shown_ids(client: Client) -> list[str]:
    """Which live URL each form says that it is about: of the page, and of those that ask whether it shall go."""
    pages = [
        client.get(reverse(f"acl:live-{verb}"), follow=True).text for verb in ("show", "create", "revoke")
    ]
    return [found for page in pages for found in re.findall(r'name="shown" value="(\d*)"', page)]


def said(client: Client, name: str, shown: str) -> str:
    """What the page says after one of its forms was sent."""
    page = client.post(reverse(f"acl:{name}"), {"shown": shown}, follow=True)
    assert page.status_code == 200
    return " ".join(str(message) for message in page.context["messages"])


def test_address_in_use_stays_when_a_form_from_before_is_sent(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    assert shown_ids(client) == [""] * 3
    said(client, "live-create", "")
    url = LiveUrl.objects.get()
    assert shown_ids(client) == [str(url.pk)] * 2
    # Another window still offers the first one, or a button was pressed twice.
    assert said(client, "live-create", "") == CHANGED
    assert said(client, "live-create", "x") == CHANGED
    assert LiveUrl.objects.get() == url
    said(client, "live-create", str(url.pk))
    newest = LiveUrl.objects.get(revoked_at=None)
    assert newest != url
    assert said(client, "live-create", str(url.pk)) == CHANGED
    assert said(client, "live-revoke", str(url.pk)) == CHANGED
    assert LiveUrl.objects.get(revoked_at=None) == newest
    said(client, "live-revoke", str(newest.pk))
    assert said(client, "live-revoke", str(newest.pk)) == CHANGED
    assert said(client, "live-create", str(newest.pk)) == CHANGED
    assert not LiveUrl.objects.filter(revoked_at=None).exists()


@pytest.mark.parametrize(
    ("verb", "effect"), [("create", "You get a new address."), ("revoke", "this address does not come back")]
)
def test_a_page_says_what_ends_before_an_address_goes(
    client: Client, rental: Rental, verb: str, effect: str
) -> None:
    url = services.create_live_url(rental=rental, by=rental.user)
    LiveUrl.objects.update(last_fetched_at=timezone.now() - timedelta(minutes=3), last_ip="198.51.100.7")
    client.force_login(rental.user)
    here = reverse(f"acl:live-{verb}")
    assert f'href="{here}"' in client.get(reverse("acl:live-show")).text
    page = client.get(here)
    assert effect in page.text
    assert "It was last fetched 3 minutes ago from 198.51.100.7." in page.text
    assert url.secret not in page.text
    assert 'class="btn btn-danger"' in page.text
    assert f'href="{reverse("acl:live-show")}"' in page.text
    assert LiveUrl.objects.get().revoked_at is None
    shown = re.findall(r'name="shown" value="(\d+)"', page.text)
    client.post(here, {"shown": shown[0]})
    assert LiveUrl.objects.get(pk=url.pk).revoked_at is not None
    assert LiveUrl.objects.filter(revoked_at=None).exists() == (verb == "create")


def test_one_address_is_made_when_two_ask_for_the_first_at_once(rental: Rental) -> None:
    services.create_live_url(rental=rental, by=rental.user)
    with pytest.raises(services.ChangedMeanwhile):
        services.create_live_url(rental=rental, by=rental.user)
    assert LiveUrl.objects.get().revoked_at is None


@pytest.mark.parametrize("is_lapsed", [True, False])
def test_live_page_says_what_is_answered_when_there_is_no_map(
    client: Client, rental: Rental, path: str, is_lapsed: bool
) -> None:
    client.force_login(rental.user)
    if is_lapsed:
        AclConfig.objects.update(ends_at=timezone.now())
    else:
        Rental.objects.update(paused_at=timezone.now())
    copies.forget(copies.kept_hashes())
    page = client.get(reverse("acl:live-show"), headers={"Accept-Language": "en"})
    assert get(path).status_code == (503 if is_lapsed else 200)
    assert ("answers without your relays" in page.text) is not is_lapsed
    assert ("has expired" in page.text) is is_lapsed


def test_live_page_is_of_use_when_there_is_no_rental(client: Client) -> None:
    client.force_login(UserFactory())
    assert client.get(reverse("acl:live-show")).status_code == 200
    assert client.post(reverse("acl:live-create")).status_code == 302
    assert client.post(reverse("acl:live-revoke")).status_code == 302
    assert client.post(reverse("acl:map-renew")).status_code == 302
    assert LiveUrl.objects.count() == 0


@pytest.mark.parametrize("name", ["live-show", "live-create", "live-revoke", "map-renew"])
def test_sign_in_is_asked_for_when_a_stranger_comes(client: Client, name: str) -> None:
    answer = (
        client.get(reverse(f"acl:{name}")) if name == "live-show" else client.post(reverse(f"acl:{name}"))
    )
    assert answer.status_code == 302
    assert answer.url.startswith("/accounts/")


def test_another_customers_address_stays_when_one_is_revoked(client: Client, rental: Rental) -> None:
    url = services.create_live_url(rental=rental, by=rental.user)
    other = RentalFactory()
    client.force_login(other.user)
    client.post(reverse("acl:live-revoke"), {"shown": url.pk})
    assert LiveUrl.objects.get().revoked_at is None
    assert services.live_address(LiveUrl.objects.get()) not in client.get(reverse("acl:live-show")).text


def test_making_addresses_is_limited_when_a_customer_plays(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    assert [client.post(reverse("acl:live-create")).status_code for _ in range(11)] == [302] * 10 + [429]


def test_admin_never_sees_an_address_when_he_looks(rental: Rental, rf: Any) -> None:
    url = services.create_live_url(rental=rental, by=rental.user)
    view: Any = admin.site.get_model_admin(LiveUrl)
    request = rf.get("/")
    request.user = UserFactory(role="superadmin")
    for page in (view.changelist_view(request).render(), view.change_view(request, str(url.pk)).render()):
        assert rental.user.email in page.text
        assert url.secret not in page.text
        assert url.secret_hash not in page.text


def test_history_shows_fetches_and_costs_the_same_when_it_is_long(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    url = reverse("acl:map-history")
    client.get(url)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url).status_code == 200
        return len(queries)

    before = count()
    for number in range(30):
        AclEventFactory(
            rental=rental, kind="fetched", version=1, count=number + 2, last_at=timezone.now(),
            fetch_key=str(number), ip="198.51.100.7", browser="headscale", file_format="json",
        )  # fmt: skip
    assert count() == before
    assert "31 ×" in client.get(url).text
