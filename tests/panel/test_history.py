"""A customer's history: their alone, newest first, the same as tables and files, and it costs the same however long it is."""

import csv
import html
import io
import re
from datetime import timedelta
from typing import Any

import pytest
import tablib
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from accounts import services as accounts
from accounts import wordlist
from accounts.models import Notice, User
from acl.devices import services as devices
from acl.maps import services as maps
from acl.maps.models import AclEvent
from containers.models import Relay
from containers.services import relays
from derpmgmt.history import sources, views
from serials.rentals import services as serials
from serials.rentals.models import Redemption, Rental
from tests.factories import AddedDeviceFactory, RelayFactory, ServerFactory, WholeRentalFactory
from tests.panel import world

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

KINDS = ("rental", "redemption", "map", "device", "relay", "notice")
HOUR = timedelta(hours=1)


@pytest.fixture
def rental() -> Rental:
    """A customer to whom something of every kind has happened, in English."""
    rental = WholeRentalFactory()
    User.objects.filter(pk=rental.user_id).update(language="en")
    go_through(rental)
    return Rental.objects.get(pk=rental.pk)


def tab_of(rental: Rental) -> str:
    """Where operators read a customer's history."""
    return f"{reverse('admin:accounts_user_change', args=[rental.user_id])}?tab=history"


def go_through(rental: Rental) -> None:
    """One more of everything."""
    serials.pause_rental(rental=rental, by=None, reason="=payment in dispute")
    serials.resume_rental(rental=rental, by=None)
    old = RelayFactory(
        rental=rental,
        slot=None,
        server=ServerFactory(whole=True),
        whole=True,
        status=Relay.Status.PLANNED,
        proven_at=None,
    )
    relays.record_running(relay=old, image="-", now=timezone.now())
    relays.give_up(old)
    relays.record_released(relay=old, now=timezone.now())
    maps.record_event(
        rental=rental, kind=AclEvent.Kind.DOWNLOADED, version=1, file_format="json", ip="198.51.100.7"
    )
    devices.revoke_device(device=AddedDeviceFactory(rental=rental, is_let_in=True), by=rental.user)
    key = f"k{Notice.objects.count()}"
    accounts.notify(user=rental.user, kind="rental_ending", key=key, context={}, is_mail_only=True)


def cost(client: Client, url: str) -> int:
    client.get(url)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


def read_csv(client: Client, kind: str) -> list[list[str]]:
    response = client.get(reverse("history-export", args=[kind, "csv"]))
    assert response.status_code == 200
    return list(csv.reader(io.StringIO(response.content.decode("utf-8-sig"))))


def test_everything_that_happened_is_there_newest_first(rental: Rental) -> None:
    entries = world.sign_in(rental.user).get("/history/").context["entries"]
    assert {entry.source.kind for entry in entries} == set(KINDS)
    times = [entry.at for entry in entries]
    assert times == sorted(times, reverse=True)
    said = " | ".join(f"{entry.title} {entry.text}" for entry in entries)
    serial = rental.redemptions.filter(serial__isnull=False).get().serial
    assert serial
    for words in (
        "The rental was paused =payment in dispute",
        "The rental was resumed",
        serial.masked,
        "Relay ready",
        "Relay removed",
        "Map downloaded",
        "v1 · json · 198.51.100.7",
        "Device added nas-",
        "Device revoked nas-",
        "Automatic approval started",
        "The rental ends soon",
    ):
        assert words in said, words


def test_days_have_names_and_seconds_given_back_are_no_event(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    now = timezone.now()
    for seconds, ago in ((3, 0), (61, 0), (59, 1), (3600, 3)):
        Redemption.objects.create(
            rental=rental,
            kind=Redemption.Kind.WAITING,
            granted_seconds=seconds,
            new_ends_at=now + timedelta(days=9),
            at=now - timedelta(days=ago),
        )
    page = client.get("/history/", {"kind": "redemption"})
    given = [entry for entry in page.context["entries"] if "given back" in entry.title]
    assert [(timezone.localdate(now) - timezone.localdate(entry.at)).days for entry in given] == [0, 3]
    assert page.text.count("Today · ") == 1
    assert "Yesterday" not in page.text
    before = timezone.localdate(now) - timedelta(days=3)
    assert f"{before:%Y-%m-%d} · {before:%A}" in page.text
    assert len([line for line in read_csv(client, "redemption") if "given back" in str(line)]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone_when_filtered(rental: Rental, kind: str) -> None:
    client = world.sign_in(rental.user)
    entries = client.get("/history/", {"kind": kind}).context["entries"]
    assert {entry.source.kind for entry in entries} == {kind}
    page = client.get("/history/", {"kind": kind, "view": "table"})
    with translation.override("en"):
        headings = [str(heading) for heading in sources.SOURCES[kind].headings]
    assert page.context["lines"]
    # On a phone each cell names its own column.
    assert f'data-label="{headings[0].capitalize()}"' in page.content.decode()


def test_nothing_of_others_is_there(rental: Rental) -> None:
    other = WholeRentalFactory()
    client = world.sign_in(other.user)
    for query in ({}, *({"kind": kind, "view": "table"} for kind in KINDS)):
        text = client.get("/history/", query).content.decode()
        for relay in Relay.objects.filter(rental=rental):
            assert relay.certificate_address not in text
    exported = str(read_csv(client, "all")) + str(read_csv(client, "relay"))
    for relay in Relay.objects.filter(rental=rental):
        assert relay.certificate_address not in exported


def test_staff_too_see_only_their_own_on_their_page(rental: Rental) -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    assert not client.get("/history/").context["entries"]
    assert client.get(tab_of(rental)).context["entries"]


def test_a_customers_history_is_shut_for_other_customers(rental: Rental) -> None:
    url = tab_of(rental)
    assert world.sign_in(rental.user).get(url, follow=True).status_code == 403
    assert Client().get(url).status_code == 302
    no_factor = world.enter(User.Role.ADMIN, has_factor=False).get(url)
    assert no_factor.status_code == 302


def test_history_of_a_closed_account_is_there_for_admins(rental: Rental) -> None:
    email = rental.user.email
    accounts.close_account(user=rental.user, by=None)
    page = world.enter(User.Role.ADMIN, has_factor=True).get(tab_of(rental))
    assert {entry.source.kind for entry in page.context["entries"]} == set(KINDS)
    assert email not in page.content.decode()


def test_operators_read_it_on_the_customers_page_and_go_back_to_the_list_they_came_from(
    rental: Rental,
) -> None:
    for _ in range(8):
        go_through(rental)
    client = world.enter(User.Role.ADMIN, has_factor=True)
    filters = "_changelist_filters=role__exact%3Duser"
    page = client.get(f"{tab_of(rental)}&{filters}&kind=rental")
    text = page.content.decode()
    assert 'class="breadcrumbs"' in text
    assert f'<a href="?tab=history&amp;{filters}" aria-current="page">' in text
    assert f"{reverse('admin:accounts_user_changelist')}?role__exact=user" in text
    assert {entry.source.kind for entry in page.context["entries"]} == {"rental"}
    links = [html.unescape(link) for link in re.findall(r'href="([^"]*kind=[^"]*)"', text)]
    assert len(links) > len(KINDS)
    for link in links:
        assert filters in link
        assert client.get(f"{tab_of(rental).split('?')[0]}{link}").context["lines"], link


def test_pages_follow_one_another_without_gap_or_double(rental: Rental) -> None:
    for _ in range(8):
        go_through(rental)
    client = world.sign_in(rental.user)
    first = client.get("/history/")
    total = first.context["page"].paginator.count
    assert total > 2 * views.ROWS
    assert 'rel="next"' in first.content.decode()
    seen = []
    for number in range(1, first.context["page"].paginator.num_pages + 1):
        seen += client.get("/history/", {"page": number}).context["entries"]
    assert len(seen) == total
    assert [entry.at for entry in seen] == sorted((entry.at for entry in seen), reverse=True)
    assert len(read_csv(client, "all")) == total + 1


@pytest.mark.parametrize(
    "query", [{"page": "0"}, {"page": "x"}, {"page": "99"}, {"kind": "'; --"}, {"view": "?"}]
)
def test_page_opens_when_the_address_is_odd(rental: Rental, query: dict[str, str]) -> None:
    assert world.sign_in(rental.user).get("/history/", query).status_code == 200


def test_empty_history_says_so_when_nothing_has_happened() -> None:
    client = world.enter(User.Role.USER, has_factor=False)
    for query in ({}, {"view": "table"}, {"kind": "relay"}, {"kind": "relay", "view": "table"}):
        page = client.get("/history/", query)
        assert page.status_code == 200
        assert not page.context["lines"]
    assert len(read_csv(client, "all")) == 1


@pytest.mark.parametrize("query", ["", "?view=table", *(f"?kind={kind}" for kind in KINDS), *(f"?kind={kind}&view=table" for kind in KINDS)])  # fmt: skip
def test_history_costs_the_same_when_much_has_happened(rental: Rental, query: str) -> None:
    client = world.sign_in(rental.user)
    few = cost(client, f"/history/{query}")
    for _ in range(6):
        go_through(rental)
    WholeRentalFactory()
    assert cost(client, f"/history/{query}") <= few <= 12


def test_export_costs_the_same_when_much_has_happened(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    for kind in ("all", *KINDS):
        few = cost(client, reverse("history-export", args=[kind, "csv"]))
        for _ in range(4):
            go_through(rental)
        assert cost(client, reverse("history-export", args=[kind, "csv"])) <= few <= 12


@pytest.mark.parametrize("kind", ["all", *KINDS])
def test_files_hold_what_the_table_shows(rental: Rental, kind: str) -> None:
    client = world.sign_in(rental.user)
    rows = read_csv(client, kind)
    response = client.get(reverse("history-export", args=[kind, "xlsx"]))
    sheet = tablib.Dataset().load(response.content, format="xlsx")
    assert sheet.headers == rows[0]
    assert [["" if cell is None else str(cell) for cell in row] for row in sheet] == rows[1:]
    table = client.get("/history/", {"kind": kind, "view": "table"}).context
    with translation.override("en"):
        assert rows[0] == [str(heading) for heading in table["headings"]]
    assert len(rows) == table["page"].paginator.count + 1
    assert response["Content-Disposition"].endswith('.xlsx"')


def test_no_file_when_kind_or_format_is_unknown(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    for path in ("/history/all.pdf", "/history/users.csv"):
        assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", " =1"])
def test_no_cell_is_a_formula_when_text_looks_like_one(rental: Rental, start: str) -> None:
    maps.record_event(rental=rental, kind=AclEvent.Kind.DOWNLOADED, version=1, reason=start, by=rental.user)
    client = world.sign_in(rental.user)
    cells = [cell for row in read_csv(client, "map")[1:] for cell in row]
    assert any("1" in cell and start.strip() in cell for cell in cells)
    assert not any(
        cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for cell in cells
    )


@pytest.mark.parametrize("grace", [timedelta(), timedelta(days=2)])
def test_the_end_says_when_it_was_when_the_sweep_came_late(rental: Rental, grace: timedelta) -> None:
    end = timezone.now() - timedelta(days=7)
    Rental.objects.filter(pk=rental.pk).update(ends_at=end, runs_until=end + grace)
    assert serials.sweep_rentals(now=timezone.now()) == 1
    client = world.sign_in(rental.user)
    entry: Any = client.get("/history/", {"kind": "rental"}).context["entries"][0]
    words = f"ended on {timezone.localtime(end):%Y-%m-%d %H:%M}"
    if grace:
        words += f"; the relays ran until {timezone.localtime(end + grace):%Y-%m-%d %H:%M}"
    assert (entry.title, entry.text) == ("The rental ended", words)
    assert read_csv(client, "rental")[1][1:] == ["The rental ended", words]


def test_what_moves_the_end_is_not_called_a_renewal() -> None:
    for language, label in (("en", "Time"), ("zh-hans", "时长变动")):
        with translation.override(language):
            assert str(sources.SOURCES["redemption"].label) == label


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_kind_of_notice_has_a_name(language: str) -> None:
    source = sources.SOURCES["notice"]
    with translation.override(language):
        for kind in wordlist.NOTICES:
            title, text = source.describe(Notice(kind=kind), "created_at")
            assert title != kind
            assert text


def test_moment_is_written_in_the_panels_zone(rental: Rental) -> None:
    entry: Any = world.sign_in(rental.user).get("/history/").context["entries"][0]
    assert views.TableCell("", entry.at).text == f"{timezone.localtime(entry.at):%Y-%m-%d %H:%M}"
