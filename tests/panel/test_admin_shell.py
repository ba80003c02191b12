"""What every page of the admin has: the way to every task and list, filters that are kept, one style of dates, warnings in red."""

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.test import Client
from django.utils import timezone

from accounts.acts import ActsMixin
from accounts.models import User
from derpmgmt.admin_tasks import TASKS
from derpmgmt.overview import OPEN_LINES, OPEN_REGIONS
from fleet.models import Region, Server
from tests.factories import (
    DeviceFactory,
    RegionFactory,
    RelayFactory,
    RentalFactory,
    SerialBatchFactory,
    ServerFactory,
    SshCredentialFactory,
    UserFactory,
)
from tests.panel import world
from tests.panel.test_acts import said

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(tmp_path: Path, settings: Any) -> Client:
    for link in ("current", "current-gate"):
        (tmp_path / link).touch()
    settings.IMAGE_DIR = tmp_path
    settings.RELAY_URL = "https://panel.example.com"
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def read(client: Client, url: str) -> str:
    """The page as text."""
    response = client.get(url)
    assert response.status_code == 200, url
    return str(response.content.decode())


def links(part: str) -> list[str]:
    """Where the links of a part of a page lead."""
    return [unescape(url) for url in re.findall(r'<a[^>]* href="([^"]+)"', part)]


def part(text: str, begin: str, end: str) -> str:
    """What stands between two marks."""
    return text[text.index(begin) :].partition(end)[0]


# --- ways


def test_every_list_belongs_to_one_task_and_stands_under_more(staff: Client) -> None:
    named = [label for task in TASKS for label in task.lists]
    assert len(named) == len(set(named))
    registered = {model._meta.label_lower for model in admin.site._registry}
    assert set(named) == registered
    tasks = links(part(read(staff, "/admin/"), 'class="admin-tasks"', "</nav>"))
    for label in registered:
        assert f"/admin/{label.replace('.', '/')}/" in tasks, label
    for url in tasks:
        assert staff.get(url).status_code == 200, url


def test_each_page_says_to_which_task_it_belongs(staff: Client) -> None:
    server = ServerFactory(whole=True)
    pages = {
        "/admin/": "Overview",
        "/admin/alerts/": "Alerts",
        "/admin/settings/": "Settings",
        "/admin/fleet/server/": "Servers",
        f"/admin/fleet/server/{server.pk}/change/": "Servers",
        f"/admin/fleet/server/{server.pk}/start-maintenance/do/": "Servers",
        f"/admin/containers/servercheck/server/{server.pk}/": "Servers",
        "/admin/acl/device/": "Customers",
        "/admin/serials/serialbatch/add/": "Serial numbers",
        "/admin/accounts/operationlog/": "Log",
        "/admin/fleet/region/": "Settings",
    }
    for url, task in pages.items():
        bar = part(read(staff, url), 'class="admin-tasks"', "<details")
        assert re.findall(r'aria-current="\w+">([^<]+)<', bar) == [task], url
    beside = part(read(staff, "/admin/containers/relay/"), 'class="admin-beside"', "</nav>")
    assert re.findall(r'aria-current="page">([^<]+)<', beside) == ["Relays"]


def test_settings_lead_to_what_is_set_once(staff: Client) -> None:
    ways = links(part(read(staff, "/admin/settings/"), 'class="admin-ways"', "</ul>"))
    assert {
        "/admin/accounts/brandsettings/",
        "/admin/fleet/region/",
        "/admin/fleet/sshcredential/",
        "/admin/fleet/provideraccount/",
    } <= set(ways)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_the_one_that_was_chosen(staff: Client, theme: str) -> None:
    assert "data-bs-theme" not in read(staff, "/admin/").partition("<head>")[0]
    staff.cookies["theme"] = theme
    page = read(staff, "/admin/fleet/server/")
    assert f'data-bs-theme="{theme}"' in page.partition("<head>")[0]
    # Django's own switch and its memory are gone.
    assert "theme-toggle" not in page
    assert "admin/js/theme" not in page
    assert "dark_mode" not in page


# --- lists


def test_filters_are_kept_on_the_way_to_an_act_and_back(staff: Client) -> None:
    server = ServerFactory(whole=True)
    wanted = f"status__exact=healthy&region__id__exact={server.region_id}"
    (row,) = [
        url for url in links(read(staff, f"/admin/fleet/server/?{wanted}")) if f"/{server.pk}/change/" in url
    ]
    page = read(staff, row)
    back = f"/admin/fleet/server/?{wanted}"
    assert back in links(part(page, 'class="breadcrumbs"', "</nav>"))
    (act,) = [url for url in links(page) if "start-maintenance/do/" in url]
    asked = read(staff, act)
    assert back in links(part(asked, 'class="breadcrumbs"', "</nav>"))
    assert row in links(part(asked, 'class="panel-act-buttons"', "</p>"))
    done = staff.post(act, {"reason": ""})
    assert done["Location"] == row
    # Removing it leads to the list from which the person came.
    (remove,) = [url for url in links(read(staff, row)) if "retire/do/" in url]
    assert staff.post(remove)["Location"] == back


def test_filters_are_kept_where_an_act_does_nothing_any_more(staff: Client) -> None:
    user = UserFactory()
    url = f"/admin/accounts/user/{user.pk}/ban/do/?_changelist_filters=role%3Duser"
    staff.post(url)
    again = staff.post(url)
    assert again["Location"] == f"/admin/accounts/user/{user.pk}/change/?_changelist_filters=role%3Duser"


def test_what_does_not_work_stands_first(staff: Client) -> None:
    now = timezone.now()
    servers = [
        ServerFactory(name="a well", healthy=True),
        ServerFactory(name="b removed", status=Server.Status.RETIRED),
        ServerFactory(name="c new"),
        ServerFactory(name="d broken", healthy=True, status=Server.Status.UNHEALTHY),
        ServerFactory(name="e silent", healthy=True, silent_since=now),
        ServerFactory(name="f resting", healthy=True, status=Server.Status.MAINTENANCE),
    ]
    found = [row.name[0] for row in staff.get("/admin/fleet/server/").context["cl"].result_list]
    assert found == ["e", "d", "c", "f", "a", "b"]
    rental = RentalFactory()
    for slot, server, fields in (
        (1, servers[0], {}),
        (2, servers[3], {"failing_since": now}),
        (3, servers[4], {"status": "failed"}),
    ):
        RelayFactory(rental=rental, slot=slot, server=server, **fields)
    assert [row.slot for row in staff.get("/admin/containers/relay/").context["cl"].result_list] == [3, 2, 1]
    # Any column may still be asked for.
    assert [row.slot for row in staff.get("/admin/containers/relay/?o=4").context["cl"].result_list] == [
        1,
        2,
        3,
    ]


def test_lists_tell_ages_and_pages_one_style_of_dates(staff: Client) -> None:
    at = datetime(2026, 3, 5, 4, 6, 7, tzinfo=UTC)
    User.objects.filter(pk=UserFactory(email="old@example.com").pk).update(date_joined=at)
    text = read(staff, "/admin/accounts/user/?q=old@")
    days = (timezone.now() - at).days
    assert re.search(
        rf'<time datetime="2026-03-05T04:06:07\+00:00" title="2026-03-05 12:06:07">{days} days ago</time>',
        text,
    )
    batch = SerialBatchFactory(redeem_by=datetime(2031, 2, 3, tzinfo=UTC).date())
    type(batch).objects.update(created_at=at)
    for language in ("en", "zh-hans"):
        User.objects.update(language=language)
        page = read(staff, f"/admin/serials/serialbatch/{batch.pk}/change/")
        assert "2026-03-05 12:06" in page
        assert "2031-02-03" in page
        assert "2031年" not in page + read(staff, "/admin/serials/serialbatch/")
    # What is still to come is told by its moment: how long until then is not an age.
    rental = RentalFactory(days=30)
    text = read(staff, "/admin/serials/rental/")
    assert f">{timezone.localtime(rental.ends_at):%Y-%m-%d %H:%M}</time>" in text


def test_a_row_is_a_card_whose_fields_say_what_they_are(staff: Client) -> None:
    ServerFactory(healthy=True)
    text = read(staff, "/admin/fleet/server/")
    row = part(part(text, 'id="result_list"', "</table>"), "<tbody>", "</tbody>")
    headings = [unescape(heading) for heading in re.findall(r'data-label="([^"]+)"', row)]
    assert headings == [
        "Name",
        "State",
        "Region",
        "Provider account",
        "Public address",
        "Relays / capacity",
        "Up now",
        "Down now",
        "Traffic this month",
        "Left this month",
        "Total traffic",
        "Load per core",
        "Latency",
        "Last visit",
    ]


def test_a_list_that_is_empty_says_so(staff: Client) -> None:
    assert "There is nothing here." in read(staff, "/admin/containers/relay/")
    assert "Nothing fits." in read(staff, "/admin/accounts/user/?q=nobody-like-this")


# --- words


@pytest.mark.parametrize(
    ("language", "added", "saved"),
    [
        ("zh-hans", "已添加区域“", "已保存区域“"),
        ("en", "The region “", "was changed successfully."),
    ],
)
def test_what_was_added_and_saved_is_named(staff: Client, language: str, added: str, saved: str) -> None:
    User.objects.update(language=language)
    fields = {"code": "zz", "name_zh": "中州", "name_en": "Zhongzhou"}
    assert ("添加区域" in read(staff, "/admin/fleet/region/add/")) is (language == "zh-hans")
    (text,) = said(staff.post("/admin/fleet/region/add/", fields, follow=True).content.decode())
    assert text.startswith(added)
    assert {"zh-hans": "中州", "en": "Zhongzhou"}[language] in text
    region = Region.objects.get(code="zz")
    (text,) = said(
        staff.post(f"/admin/fleet/region/{region.pk}/change/", fields, follow=True).content.decode()
    )
    assert saved in text


def test_djangos_scripts_speak_our_words(staff: Client) -> None:
    User.objects.update(language="zh-hans")
    text = staff.get("/admin/jsi18n/").content.decode()
    words = json.loads(re.findall(r"const newcatalog = (\{.*?\});", text, re.DOTALL)[0])
    assert words["Chosen %s"] == "已选的%s"
    assert words["Today"] == "今天"  # Django's own


# --- danger

DANGERS = {
    ("user", "ban"), ("user", "close"), ("user", "reset-second-factor"), ("rental", "pause"), ("serialnumber", "recall"),
    ("serialbatch", "mark-unpaid"), ("device", "revoke"), ("device", "give-place"), ("liveurl", "revoke"), ("server", "retire"),
    ("alertroute", "remove"),
}  # fmt: skip


def test_what_stops_or_ends_something_is_said_to_be_a_danger() -> None:
    found = {
        (model._meta.model_name, act.verb)
        for model, page in admin.site._registry.items()
        if isinstance(page, ActsMixin)
        for act in page.acts
        if act.is_danger
    }
    assert found == DANGERS


def test_danger_is_red_and_names_whom(staff: Client) -> None:
    rental = RentalFactory(user=UserFactory(email="ann@example.com"))
    device = DeviceFactory(rental=rental, name="nas")
    text = read(staff, f"/admin/acl/device/{device.pk}/revoke/do/")
    assert "btn-danger" in text
    assert "nas of ann@example.com is cut off at once" in text
    harmless = read(staff, f"/admin/acl/device/{device.pk}/approve/do/")
    assert "btn-danger" not in harmless
    assert "btn-primary" in harmless


def test_nothing_asks_by_a_box_of_the_browser() -> None:
    for path in [
        *(settings.BASE_DIR / "static").glob("*.js"),
        *(settings.BASE_DIR / "templates").rglob("*.html"),
    ]:
        text = path.read_text()
        assert not re.search(r"\bconfirm\(|hx-confirm|data-confirm", text), path


# --- the start page and the alerts


def broken_fleet() -> None:
    """200 servers in six regions, of which 196 do not work, for three reasons; the third region has the most of them."""
    now, credential = timezone.now(), SshCredentialFactory()
    regions = [RegionFactory(new=True) for _number in range(6)]
    rows = []
    for number in range(200):
        fields: dict[str, Any] = {"status": Server.Status.HEALTHY}
        if number >= 4:
            fields = {"status": Server.Status.UNHEALTHY, "status_reason": "Docker is not running"}
        if number >= 40:
            fields = {"status": Server.Status.UNHEALTHY, "silent_since": now - timedelta(minutes=number)}
        if number >= 190:
            fields = {"status": Server.Status.MAINTENANCE}
        region = regions[2] if 100 <= number < 130 else regions[number % 6]
        rows.append(
            Server(
                name=f"{region.code}-{number:03}",
                region=region,
                credential=credential,
                address=f"198.18.{number // 100}.{number % 100 + 1}",
                last_visit_at=now,
                host_key="-",
                **fields,
            )
        )
    Server.objects.bulk_create(rows)


def test_the_start_page_of_a_fleet_that_is_nearly_dead_is_short(staff: Client) -> None:
    broken_fleet()
    page = staff.get("/admin/")
    lines = page.context["open_matters"]
    assert len(lines) <= OPEN_LINES
    assert [line.title for line in lines] == [
        "150 servers do not answer", "36 servers are unhealthy", "10 servers are in maintenance"
    ]  # fmt: skip
    # Each says in which regions, the worst first, and leads to the list of those.
    shares = lines[0].shares
    assert sum(share.count for share in shares) == 150
    assert shares[0].count == max(share.count for share in shares)
    for share in shares:
        assert staff.get(share.url).context["cl"].result_count == share.count
    regions = page.context["open_regions"]
    assert len(regions) == OPEN_REGIONS
    assert len(page.context["folded_regions"]) == 2
    broken = [line.badness for line in [*regions, *page.context["folded_regions"]]]
    assert broken == sorted(broken, reverse=True)
    text = page.content.decode()
    assert text.count('class="panel-state is-critical"') == 2
    assert text.count('<details class="admin-fold"') == 1


def test_alerts_are_narrowed_down_by_level_room_and_region(staff: Client) -> None:
    broken_fleet()
    SerialBatchFactory(is_paid=False)
    page = staff.get("/admin/alerts/")
    assert page.context["count"] == 197
    assert {line.level for line in page.context["matters"]} == {"critical", "information"}
    offered = {title: [choice.count for choice in choices] for title, choices in page.context["filters"]}
    assert offered["Level"] == [197, 186, 11]
    assert offered["About"] == [197, 196, 1]
    assert len(offered["Region"]) == 7
    for title, choices in page.context["filters"]:
        for choice in choices:
            found = staff.get(f"/admin/alerts/{choice.url}")
            assert found.context["count"] == choice.count, (title, choice.word)
    critical = staff.get("/admin/alerts/?level=critical&room=servers")
    assert {line.level for line in critical.context["matters"]} == {"critical"}
    both = staff.get(
        f"/admin/alerts/?level=critical&region={Region.objects.get(servers__name__endswith='-100').pk}"
    )
    assert 0 < both.context["count"] < 186
    # What there is none of narrows nothing down.
    assert staff.get("/admin/alerts/?level=nonsense&region=x&room=%00").context["count"] == 197


def test_alerts_say_so_when_there_is_nothing(staff: Client) -> None:
    for _number in range(3):
        ServerFactory(healthy=True)
    assert "All is well" in read(staff, "/admin/alerts/")
