"""The 32 days of a version, new versions by hand, and what the customer is told."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from accounts.models import Notice, OperationLog
from acl import derpmap, jobs, services
from acl.models import RENEW_BEFORE, VALID_FOR, AclConfig, AclEvent, LiveUrl, MapRegion
from containers.models import Relay
from serials.models import Rental
from tests.acl.factories import make_relay, make_rental, make_user, set_paid

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _folder(settings: Any, tmp_path: Any) -> None:
    settings.VAR_DIR = tmp_path


@pytest.fixture
def rental() -> Rental:
    rental = make_rental(days=200)
    for slot in (1, 2, 3):
        make_relay(rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


def active(rental: Rental) -> AclConfig:
    config = services.active_config(rental)
    assert config
    return config


def take(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.HUJSON, by=rental.user)


def sweep_at(moment: datetime, times: int = 1) -> None:
    with time_machine.travel(moment, tick=False):
        for _ in range(times):
            jobs.sweep_maps()


def move(relay: Relay) -> None:
    Relay.objects.filter(pk=relay.pk).update(certificate_sha256=f"{relay.pk:064x}")


# The 32 days


def test_next_version_is_made_before_the_old_one_lapses(rental: Rental) -> None:
    first = active(rental)
    sweep_at(first.ends_at - RENEW_BEFORE - timedelta(seconds=1))
    assert active(rental) == first
    sweep_at(first.ends_at - RENEW_BEFORE, times=3)
    second = active(rental)
    assert (second.version, second.derp_map, second.reason) == (2, first.derp_map, services.LAPSED)
    assert second.ends_at - second.created_at == VALID_FOR
    sweep_at(first.ends_at + timedelta(seconds=1))
    assert active(rental) == second


def test_one_version_follows_when_the_sweep_was_down_for_months(rental: Rental) -> None:
    first = active(rental)
    with time_machine.travel(first.ends_at + timedelta(days=90)):
        with pytest.raises(services.DownloadRefused) as refused:
            services.check_download(rental=rental, now=timezone.now())
        assert refused.value.code == "lapsed"
        jobs.sweep_maps()
        jobs.sweep_maps()
        assert active(rental).version == 2
        assert services.check_download(rental=rental, now=timezone.now()).version == 2


def test_lapse_is_recorded_once_and_pins_stay_when_nothing_else_is_set(rental: Rental) -> None:
    first = active(rental)
    pins = set(Relay.objects.values_list("certificate_sha256", flat=True))
    sweep_at(first.ends_at, times=2)
    first.refresh_from_db()
    assert (first.lapsed_at, first.is_active) == (first.ends_at, None)
    assert services.due_lapses(first.ends_at) == []
    assert set(Relay.objects.values_list("certificate_sha256", flat=True)) == pins


def test_pins_are_rotated_until_none_is_left_when_that_is_set(
    rental: Rental, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROTATE_PINS = True
    asked: list[int] = []
    monkeypatch.setattr("acl.services.versions.rotate_relay", lambda *, relay, **_: asked.append(relay.slot))
    first = active(rental)
    sweep_at(first.ends_at - timedelta(hours=1))
    assert asked == []
    sweep_at(first.ends_at)
    assert sorted(asked) == [1, 2, 3]
    # Successors have taken two places over; the old ones stand beside them for a while.
    for relay in Relay.objects.filter(slot__in=[1, 2]):
        slot = relay.slot
        Relay.objects.filter(pk=relay.pk).update(slot=None)
        make_relay(rental, slot=slot)
    asked.clear()
    sweep_at(first.ends_at)
    assert asked == [3]
    Relay.objects.filter(slot=3).update(certificate_sha256="f" * 64)
    asked.clear()
    sweep_at(first.ends_at, times=2)
    assert asked == []
    first.refresh_from_db()
    assert first.lapsed_at


def test_nothing_is_rotated_when_the_rental_has_ended(
    rental: Rental, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROTATE_PINS = True
    monkeypatch.setattr("acl.services.versions.rotate_relay", lambda **_: pytest.fail("rotated"))
    Rental.objects.update(paused_at=timezone.now())
    sweep_at(active(rental).ends_at)
    assert services.due_lapses(timezone.now() + VALID_FOR) == []


def test_others_lapse_when_one_cannot_be_dealt_with(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_rental(days=200)
    make_relay(other)
    services.refresh_map(rental=other, reason=services.RELAYS_CHANGED)
    first, record = active(rental), services.record_lapse

    def fail_once(*, config: AclConfig, now: datetime) -> bool:
        if config.rental_id == rental.pk:
            raise RuntimeError
        return record(config=config, now=now)

    monkeypatch.setattr(services, "record_lapse", fail_once)
    sweep_at(timezone.now() + VALID_FOR)
    assert list(AclConfig.objects.filter(lapsed_at__isnull=False).values_list("rental", flat=True)) == [
        other.pk
    ]
    assert f"map version {first.pk}" in caplog.text


# By hand


def test_new_version_is_made_when_the_customer_asks(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    with time_machine.travel(timezone.now() + timedelta(days=2)):
        answer = client.post(reverse("acl:map-renew"), follow=True)
    config = active(rental)
    assert (config.version, config.reason) == (2, services.RENEWED)
    assert AclEvent.objects.get(version=2).by == rental.user
    assert OperationLog.objects.filter(action="map.renewed", actor=rental.user).count() == 1
    assert "2" in str(next(iter(answer.context["messages"])))
    assert client.get(reverse("acl:map-renew")).status_code == 405


def test_renewing_is_limited_when_a_customer_plays(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    statuses = [client.post(reverse("acl:map-renew")).status_code for _ in range(11)]
    assert statuses == [302] * 10 + [429]
    assert active(rental).version == 11


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _rental: Rental.objects.update(paused_at=timezone.now()), "paused"),
        (lambda rental: set_paid(rental, None), "unpaid"),
        (lambda _rental: Relay.objects.update(status="released", slot=None), "no_map"),
    ],
)
def test_renewing_is_refused_when_there_is_no_ground(
    client: Client, rental: Rental, change: Callable[[Rental], Any], code: str
) -> None:
    change(rental)
    rental.refresh_from_db()
    with pytest.raises(services.DownloadRefused) as refused:
        services.renew_map(rental=rental, by=None)
    assert refused.value.code == code
    client.force_login(rental.user)
    answer = client.post(reverse("acl:map-renew"), follow=True)
    assert answer.status_code == 200
    assert AclConfig.objects.count() == 1


def test_admin_makes_a_version_by_his_button(client: Client, rental: Rental) -> None:
    boss = make_user(role="admin")
    config = active(rental)
    from django.contrib import admin
    from django.test import RequestFactory

    view: Any = admin.site.get_model_admin(AclConfig)
    request: Any = RequestFactory().post("/")
    request.user, request._messages = boss, type("M", (), {"add": lambda *_: None})()
    answer = view.renew(request, config.pk)
    assert answer.url == reverse("admin:acl_aclconfig_change", args=[active(rental).pk])
    assert AclEvent.objects.get(version=2).by == boss
    request.user = rental.user
    from django.core.exceptions import PermissionDenied

    with pytest.raises(PermissionDenied):
        view.renew(request, config.pk)
    request.user, request.method = boss, "GET"
    with pytest.raises(PermissionDenied):
        view.renew(request, config.pk)
    client.force_login(rental.user)
    assert client.post(reverse("admin:acl_aclconfig_renew", args=[config.pk])).status_code in {302, 403, 404}
    assert active(rental).version == 2


def test_command_makes_a_version_or_says_why_not(rental: Rental) -> None:
    out = StringIO()
    call_command("acl_renew", rental.user.email.upper(), "--json", stdout=out)
    found = json.loads(out.getvalue())
    assert (found["email"], found["version"]) == (rental.user.email, 2)
    Rental.objects.update(paused_at=timezone.now())
    with pytest.raises(CommandError, match=r"暂停|paused"):
        call_command("acl_renew", rental.user.email)
    with pytest.raises(CommandError):
        call_command("acl_renew", "nobody@example.com")


# What changed, and whether to paste again


def note(rental: Rental) -> services.PasteNote:
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).first()
    return services.describe_paste(config=active(rental), url=url, now=timezone.now())


def test_nothing_is_said_when_no_version_was_taken(rental: Rental) -> None:
    assert note(rental) == services.PasteNote(None, (), False)


def test_pasting_again_is_asked_for_when_the_way_to_a_relay_changed(rental: Rental) -> None:
    take(rental)
    first, second, third = Relay.objects.order_by("slot")
    move(first)
    Relay.objects.filter(pk=second.pk).update(status="released", slot=None)
    MapRegion.objects.filter(relay=third).update(region_id=950)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    found = note(rental)
    assert (found.taken, found.must_paste) == (1, True)
    assert [(change.kind, change.region_id) for change in found.changes] == [
        ("moved", 901),
        ("removed", 902),
        ("removed", 903),
        ("added", 950),
    ]
    take(rental)
    assert not note(rental).must_paste


def test_version_between_does_not_hide_the_change_when_the_newest_is_the_same(rental: Rental) -> None:
    take(rental)
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    services.renew_map(rental=rental, by=None)
    assert note(rental).must_paste


def test_nothing_is_to_be_pasted_when_only_the_date_is_new(rental: Rental) -> None:
    take(rental)
    services.renew_map(rental=rental, by=None)
    assert note(rental) == services.PasteNote(1, (), False)


def test_what_others_took_does_not_count(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.JSON, by=None)
    assert note(rental).taken is None


def test_nothing_is_to_be_pasted_when_the_live_url_is_in_use(rental: Rental) -> None:
    take(rental)
    url = services.create_live_url(rental=rental, by=rental.user)
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert note(rental).must_paste  # made, but nobody reads it
    LiveUrl.objects.filter(pk=url.pk).update(last_fetched_at=timezone.now() - timedelta(hours=1))
    assert (note(rental).is_live, note(rental).must_paste) == (True, False)
    LiveUrl.objects.filter(pk=url.pk).update(last_fetched_at=timezone.now() - timedelta(days=3))
    assert note(rental).must_paste


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_page_says_what_changed_when_something_must_be_pasted(
    client: Client, rental: Rental, language: str
) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    take(rental)
    page = client.get(reverse("home")).text
    assert "alert-warning" not in page
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    page = client.get(reverse("home")).text
    assert "alert-warning" in page
    assert "901" in page[page.index("alert-warning") :][:600]


# Told


def told() -> list[dict[str, Any]]:
    return [notice.context for notice in Notice.objects.filter(kind="map_changed").order_by("pk")]


def later(minutes: float = 3) -> datetime:
    return timezone.now() + timedelta(minutes=minutes)


def test_first_versions_are_not_told_when_relays_come_one_by_one() -> None:
    rental = make_rental()
    for slot in (1, 2, 3):
        make_relay(rental, slot=slot)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        sweep_at(later(0))
    sweep_at(later(), times=2)
    assert told() == []
    assert active(rental).told_at


def test_customer_is_told_once_what_came_of_it_when_relays_changed_twice(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    for relay in Relay.objects.order_by("slot")[:2]:
        move(relay)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        sweep_at(later(0))
    assert told() == []
    sweep_at(later(), times=3)
    (context,) = told()
    assert (context["version"], context["old_version"], context["taken"]) == (3, 1, 1)
    assert (context["must_paste"], context["is_live"]) == (True, False)
    assert [change["kind"] for change in context["changes"]] == ["moved", "moved"]
    assert context["url"] == "http://testserver/home/#derp-map"


def test_customer_is_told_that_nothing_is_to_be_done_when_only_the_date_is_new(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    first = active(rental)
    sweep_at(first.ends_at - RENEW_BEFORE)
    sweep_at(first.ends_at - RENEW_BEFORE + timedelta(minutes=3))
    (context,) = told()
    assert (context["changes"], context["must_paste"], context["version"]) == ([], False, 2)


def test_customer_is_told_once_when_the_sweep_was_down_for_a_week(rental: Rental) -> None:
    sweep_at(later())
    for relay in Relay.objects.order_by("slot"):
        move(relay)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    sweep_at(timezone.now() + timedelta(days=7), times=3)
    assert [context["version"] for context in told()] == [4]


def test_withdrawn_version_is_not_told(rental: Rental) -> None:
    sweep_at(later())
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    Rental.objects.update(paused_at=timezone.now())
    sweep_at(later())
    assert told() == []


CONTEXTS: list[dict[str, Any]] = [
    {"changes": [], "taken": None, "must_paste": False, "is_live": False},
    {"changes": [], "taken": 3, "must_paste": False, "is_live": False},
    {
        "changes": [
            {"kind": kind, "region_id": 901, "name": "A&B 1"} for kind in ("added", "removed", "moved")
        ],
        "taken": 3,
        "must_paste": True,
        "is_live": False,
    },
    {
        "changes": [{"kind": "moved", "region_id": 901, "name": "A&B 1"}],
        "taken": 3,
        "must_paste": False,
        "is_live": True,
    },
]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_mail_says_it_in_text_as_well_as_in_html(context: dict[str, Any], language: str) -> None:
    whole = {"version": 5, "old_version": 4, "valid_until": timezone.now(), "url": "http://x/", **context}
    with translation.override(language):
        subject, text, html = (
            render_to_string(f"notices/map_changed_{part}", whole)
            for part in ("subject.txt", "message.txt", "message.html")
        )
    assert "5" in subject
    assert len(subject.strip().splitlines()) == 1
    assert text.count("A&B 1") == html.count("A&amp;B 1") == len(context["changes"])
    assert "A&amp;" not in text
    assert "http://x/" in text
    assert "{" not in text + subject


# Closing


def test_maps_are_destroyed_when_the_account_is_closed(rental: Rental) -> None:
    take(rental)
    services.record_event(rental=rental, kind="downloaded", version=1, ip="198.51.100.7", browser="Firefox")
    services.create_live_url(rental=rental, by=rental.user)
    jobs.destroy_maps(rental.user_id)
    assert not services.destroy_maps(rental=rental)
    assert active(rental).derp_map["Regions"]
    assert list(services.closing_left(rental.user))
    Rental.objects.update(closed_at=timezone.now())
    type(rental.user).objects.filter(pk=rental.user_id).update(closing_at=timezone.now(), is_active=False)
    for _ in range(2):
        jobs.destroy_maps(rental.user_id)
    assert services.active_config(rental) is None
    assert list(AclConfig.objects.values_list("version", "derp_map")) == [(1, derpmap.EMPTY_MAP)]
    assert not list(services.closing_left(rental.user))
    assert AclEvent.objects.count() == 4
    assert not AclEvent.objects.exclude(ip=None, browser="").exists()
    url = LiveUrl.objects.get()
    assert (url.secret, url.revoked_at) == ("", None)
    copy = services.read_copy(url.secret_hash)
    assert copy
    assert json.loads(copy.body) == derpmap.EMPTY_MAP


# The page of the live URL


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_live_page_shows_address_lines_and_last_fetch(client: Client, rental: Rental, language: str) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    page = client.get(reverse("acl:live-show"))
    assert reverse("acl:live-create") in page.text
    assert "/live/" not in page.text.replace("/map/live/", "")
    page = client.post(reverse("acl:live-create"), follow=True)
    url = LiveUrl.objects.get()
    address = services.live_address(url)
    assert page.text.count(address) == 2
    assert page.headers["Cache-Control"] == "private, no-store"
    import yaml

    lines = yaml.safe_load(page.context["live"].lines)["derp"]
    assert lines["urls"] == [derpmap.DEFAULT_MAP_URL, address]
    assert lines["auto_update_enabled"] is True
    LiveUrl.objects.update(
        last_fetched_at=timezone.now(), last_ip="198.51.100.7", last_browser="<b>headscale"
    )
    page = client.get(reverse("acl:live-show"))
    assert "198.51.100.7" in page.text
    assert "&lt;b&gt;headscale" in page.text
    assert "alert-warning" not in page.text
    Rental.objects.update(paused_at=timezone.now())
    assert "alert-warning" in client.get(reverse("acl:live-show")).text
    client.post(reverse("acl:live-revoke"))
    assert address not in client.get(reverse("acl:live-show")).text
    assert list(
        OperationLog.objects.filter(action__startswith="live").order_by("pk").values_list("action", flat=True)
    ) == ["live_url.created", "live_url.revoked"]


def test_live_page_is_of_use_when_there_is_no_rental(client: Client) -> None:
    client.force_login(make_user())
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
    services.create_live_url(rental=rental, by=rental.user)
    other = make_rental()
    client.force_login(other.user)
    client.post(reverse("acl:live-revoke"))
    assert LiveUrl.objects.get().revoked_at is None
    assert services.live_address(LiveUrl.objects.get()) not in client.get(reverse("acl:live-show")).text


def test_making_addresses_is_limited_when_a_customer_plays(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    assert [client.post(reverse("acl:live-create")).status_code for _ in range(11)] == [302] * 10 + [429]


def test_admin_never_sees_an_address_when_he_looks(rental: Rental, rf: Any) -> None:
    from django.contrib import admin

    url = services.create_live_url(rental=rental, by=rental.user)
    view: Any = admin.site.get_model_admin(LiveUrl)
    request = rf.get("/")
    request.user = make_user(role="superadmin")
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
        AclEvent.objects.create(
            rental=rental, kind="fetched", version=1, count=number + 2, last_at=timezone.now(),
            fetch_key=str(number), ip="198.51.100.7", browser="headscale", file_format="json",
        )  # fmt: skip
    assert count() == before
    assert "31 ×" in client.get(url).text
