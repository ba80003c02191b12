"""The admin's start page, and the customer's home in each of its states."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F
from django.test import Client
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services import send_again
from containers import jobs
from containers.models import Deployment, Gate, Relay, RelayHealth, ServerCheck
from containers.services import gates
from derpmgmt.lib.jobs import Problem
from fleet.models import Server
from serials.numbers.models import SerialBatch
from serials.rentals.models import Redemption, Rental
from tests.factories import RelayFactory, ServerCheckFactory, ServerFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture
def english(client: Client) -> Client:
    client.cookies["django_language"] = "en"
    return client


@pytest.fixture
def rental() -> Rental:
    rental = WholeRentalFactory()
    User.objects.filter(pk=rental.user_id).update(language="en")
    # The demo's world is two days old, so that nothing on the page counts as just having happened.
    old = timezone.now() - timedelta(days=2)
    rental.relays.update(proven_at=old)
    Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
    return rental


@pytest.fixture
def home(rental: Rental) -> Any:
    """The customer's home page as text."""
    client = world.sign_in(rental.user)
    return lambda: client.get("/home/").content.decode()


def shown(text: str, colour: str) -> int:
    """How many relays the page shows in this colour."""
    (part,) = re.findall(r'<section id="relays".*?</section>', text, re.DOTALL)
    return part.count(f"panel-state is-{colour}")


def running(text: str) -> int:
    """How many relays the page shows as running."""
    return shown(text, "green")


@pytest.fixture
def staff(settings: Any, tmp_path: Path) -> Client:
    for link in ("current", "current-gate"):
        (tmp_path / link).touch()
    settings.IMAGE_DIR = tmp_path
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def matters(client: Client) -> list[tuple[str, str]]:
    """Level and link of everything that needs a person, each link opened once."""
    found = [(matter.level, matter.url) for matter in client.get("/admin/").context["matters"]]
    for _level, url in found:
        assert client.get(url).status_code == 200, url
    return found


def test_all_is_well_when_nothing_needs_a_person(staff: Client, rental: Rental) -> None:
    text = staff.get("/admin/").content.decode()
    assert matters(staff) == []
    assert "All is well" in text
    assert "The servers were last visited" in text


def test_what_needs_a_person_stands_first_and_leads_there(staff: Client, rental: Rental) -> None:
    first, second, third = rental.relays.select_related("server").order_by("slot")
    Relay.objects.filter(pk=first.pk).update(status=Relay.Status.FAILED)
    deployment = Deployment.objects.get(relay=first)
    Deployment.objects.filter(pk=deployment.pk).update(status=Deployment.Status.FAILED, error="No room.")
    RelayHealth.objects.filter(relay=second).update(is_ok=False)
    Server.objects.filter(pk=third.server_id).update(
        status=Server.Status.UNHEALTHY, status_reason="It is silent."
    )
    SerialBatch.objects.update(paid_at=None)
    fresh = ServerFactory(whole=True, status=Server.Status.NEW, host_key="")
    seen = matters(staff)
    assert seen == [
        ("critical", f"/admin/fleet/server/{third.server_id}/change/"),
        ("critical", "/admin/fleet/server/add/"),
        ("critical", f"/admin/containers/deployment/{deployment.pk}/change/"),
        ("warning", f"/admin/fleet/server/{fresh.pk}/host-key/"),
        ("warning", f"/admin/containers/relay/{second.pk}/change/"),
        ("warning", "/admin/serials/serialbatch/?paid_at__isempty=1"),
    ]
    text = staff.get("/admin/").content.decode()
    assert "No room." in text
    assert "It is silent." in text
    assert "All is well" not in text


@pytest.mark.parametrize(("days", "level"), [(20, "warning"), (14, "critical")])
def test_it_is_said_when_certificates_near_their_end_cannot_be_renewed(
    staff: Client, rental: Rental, days: int, level: str
) -> None:
    ends_at = timezone.now() + timedelta(days=days)
    rental.relays.update(certificate_ends_at=ends_at + timedelta(days=90))
    rental.relays.filter(slot__lt=3).update(certificate_ends_at=ends_at)
    Server.objects.update(capacity=1)
    assert matters(staff) == []
    jobs.rotate_certificates()
    ((found, url),) = matters(staff)
    assert found == level
    assert set(staff.get(url).context["cl"].result_list) == set(rental.relays.filter(slot__lt=3))
    text = staff.get("/admin/").content.decode()
    assert f"The certificates of 2 relays end, the first on {timezone.localtime(ends_at):%Y-%m-%d}" in text
    Server.objects.update(capacity=9)
    rental.relays.filter(slot__lt=3).update(try_after=timezone.now())
    jobs.rotate_certificates()
    assert matters(staff) == []


def test_a_server_that_failed_its_checks_is_named_until_they_run_again(staff: Client) -> None:
    server = ServerFactory(whole=True, status=Server.Status.NEW)
    check = ServerCheckFactory(server=server, status=ServerCheck.Status.FAILED, error="Closed.")
    url = f"/admin/containers/servercheck/server/{server.pk}/"
    assert ("warning", url) in matters(staff)
    ServerCheck.objects.filter(pk=check.pk).update(status=ServerCheck.Status.RUNNING)
    assert ("warning", url) not in matters(staff)


def test_a_notice_that_was_not_sent_is_shown_until_it_is_sent_again(staff: Client, rental: Rental) -> None:
    notice = rental.user.notices.first()
    assert notice
    Notice.objects.filter(pk=notice.pk).update(state=Notice.State.FAILED)
    assert ("warning", "/admin/accounts/notice/?state__exact=failed") in matters(staff)
    send_again(notice=notice, by=rental.user)
    assert matters(staff) == []


def test_it_is_said_when_nobody_visits_the_servers(staff: Client, rental: Rental) -> None:
    Server.objects.update(last_visit_at=timezone.now() - timedelta(minutes=3))
    assert matters(staff) == [("critical", "/admin/fleet/server/")]
    Server.objects.filter(pk=Server.objects.first().pk).update(last_visit_at=timezone.now())  # type: ignore[union-attr]
    assert matters(staff) == []


def test_it_is_said_when_there_is_no_image(
    staff: Client, rental: Rental, settings: Any, tmp_path: Path
) -> None:
    settings.IMAGE_DIR = tmp_path
    (tmp_path / "current").unlink()
    assert matters(staff) == [("critical", "/admin/containers/relay/")]


@pytest.mark.slow
def test_gates_that_fail_or_know_too_little_are_named(staff: Client, rental: Rental) -> None:
    now = timezone.now()
    failed, late, *_others = Gate.objects.select_related("server").order_by("pk")
    gates.record_failure(gate=failed, problem=Problem("no_gate_image", ""), now=now)
    Gate.objects.filter(pk=late.pk).update(list_changed_at=now - timedelta(seconds=30))
    failed_url, late_url = (f"/admin/fleet/server/{gate.server_id}/change/" for gate in (failed, late))
    assert matters(staff) == [("critical", failed_url)]
    Gate.objects.filter(pk=late.pk).update(list_changed_at=now - timedelta(seconds=90))
    assert matters(staff) == [("critical", failed_url), ("critical", late_url)]
    text = staff.get("/admin/").content.decode()
    assert f"The gate of {failed.server} failed" in text
    assert "image_build --only gate" in text
    assert "have not been delivered since" in staff.get(late_url).content.decode()
    page = staff.get(failed_url).content.decode()
    assert "Last failure" in page
    assert "Try the gate again" in page
    assert (
        failed.secret not in page + staff.get(f"/admin/containers/gate/{failed.pk}/change/").content.decode()
    )

    response = staff.post(f"/admin/containers/gate/{failed.pk}/retry/do/")
    assert response["Location"] == failed_url
    failed.refresh_from_db()
    assert failed.status == Gate.Status.PLANNED


def test_a_gate_that_no_relay_needs_is_not_said_to_be_on_its_way(staff: Client, rental: Rental) -> None:
    gate = Gate.objects.select_related("server").order_by("pk")[0]
    Gate.objects.exclude(pk=gate.pk).delete()
    gates.record_removed(server_pk=gate.server_id)
    own, of_server = (
        f"/admin/containers/gate/{gate.pk}/change/",
        f"/admin/fleet/server/{gate.server_id}/change/",
    )
    for is_needed in (True, False):
        if not is_needed:
            Relay.objects.filter(server=gate.server_id).update(slot=None, status=Relay.Status.RELEASED)
        listed, shown, beside = (
            staff.get(url).content.decode() for url in ("/admin/containers/gate/", own, of_server)
        )
        for page in (listed, shown, beside):
            assert ("not needed yet" in page) is not is_needed
            assert (
                "being prepared" in page.replace('?status__exact=planned">being prepared', "")
            ) is is_needed
        assert ("Try again" in shown, "Try the gate again" in beside) == (is_needed, is_needed)
        assert ("made with the first customer" in beside) is not is_needed


def test_it_is_said_when_there_is_no_image_of_the_gate(staff: Client, rental: Rental, settings: Any) -> None:
    (settings.IMAGE_DIR / "current-gate").unlink()
    assert matters(staff) == [("critical", "/admin/containers/gate/")]
    assert "image_build --only gate" in staff.get("/admin/").content.decode()


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_it_is_said_when_servers_cannot_reach_the_panel(
    staff: Client, rental: Rental, settings: Any, host: str
) -> None:
    settings.RELAY_URL = f"http://{host}"
    assert "DERPMGMT_RELAY_URL" in staff.get("/admin/").content.decode()
    Server.objects.update(address=F("ssh_host"))  # the sandbox's
    assert matters(staff) == []


def test_the_figures_are_those_of_today_and_of_what_carries_packets(staff: Client, rental: Rental) -> None:
    yesterday = timezone.now() - timedelta(days=1)
    other = WholeRentalFactory()
    User.objects.filter(pk=other.user_id).update(date_joined=yesterday)
    Redemption.objects.filter(rental=other).update(at=yesterday)
    Rental.objects.filter(pk=other.pk).update(ends_at=yesterday, runs_until=yesterday)
    first, second, third = rental.relays.order_by("slot")
    RelayHealth.objects.filter(relay=first).update(is_ok=False)
    Server.objects.filter(pk=second.server_id).update(silent_since=timezone.now())
    Deployment.objects.filter(relay__rental=other).update(created_at=yesterday)
    Deployment.objects.filter(relay=third).update(status=Deployment.Status.FAILED)
    page = staff.get("/admin/")
    assert [(figure.label, figure.value) for figure in page.context["figures"]] == [
        ("new accounts today", "2"),
        ("redeemed today", "1"),
        ("active rentals", "1"),
        ("relays that carry packets / wanted", "4 / 6"),
        ("deployments today: done / all", "2 / 3"),
    ]
    for figure in page.context["figures"]:
        assert (
            f'<dt>{figure.label}</dt><dd><a href="{figure.url}">{figure.value}</a>' in page.content.decode()
        )
        assert staff.get(figure.url).status_code == 200


def test_the_fleet_has_one_row_a_region(staff: Client, rental: Rental) -> None:
    relay = rental.relays.select_related("server__region").get(slot=1)
    ServerFactory(
        whole=True,
        region=relay.server.region,
        status=Server.Status.MAINTENANCE,
        load_ratio=1.5,
        last_visit_at=None,
    )
    lines = staff.get("/admin/").context["regions"]
    assert len(lines) == 3
    (line,) = [line for line in lines if line.region == relay.server.region]
    assert line.state_words == [(Server.Status.HEALTHY, 1), (Server.Status.MAINTENANCE, 1)]
    assert (line.relays, line.capacity, line.load) == (1, 100, 1.5)
    newest = timezone.now()
    Server.objects.filter(pk=relay.server_id).update(last_visit_at=newest)
    assert staff.get("/admin/").context["checked_at"] == newest
    assert staff.get(line.url).context["cl"].result_count == 2


def test_home_is_the_serial_box_when_there_is_no_rental() -> None:
    text = world.enter(User.Role.USER, has_factor=False).get("/home/").content.decode()
    assert "data-serial-input" in text
    assert 'id="relays"' not in text


def test_home_shows_each_relay_with_its_last_proof_when_all_is_well(home: Any) -> None:
    text = home()
    assert running(text) == 3
    assert len(re.findall(r"<dd>\d\.\d ms</dd>", text)) == 9
    assert "every 20s" in text
    assert "alert-" not in text
    assert "30 days left" in text


def test_home_follows_by_the_second_when_relays_are_being_prepared(home: Any, rental: Rental) -> None:
    rental.relays.update(status=Relay.Status.PLANNED, proven_at=None)
    Deployment.objects.filter(relay=rental.relays.get(slot=1)).update(status="running", step="image")
    text = home()
    assert shown(text, "blue") == 3
    assert "every 500ms" in text
    assert re.search(
        r'is-done">Connect to the server.*?is-now">Load the image.*?is-todo">Start', text, re.DOTALL
    )


def test_home_follows_by_the_second_when_the_relays_are_not_planned_yet(home: Any, rental: Rental) -> None:
    rental.relays.update(slot=None, status=Relay.Status.RELEASED)
    Rental.objects.filter(pk=rental.pk).update(waiting_since=timezone.now())
    text = home()
    assert shown(text, "blue") == 3
    assert "every 500ms" in text
    assert "fewer than three servers" not in text
    Rental.objects.filter(pk=rental.pk).update(waiting_since=timezone.now() - timedelta(minutes=1))
    text = home()
    assert "fewer than three servers" in text
    assert "every 5s" in text


def test_home_says_so_when_fewer_than_three_servers_are_usable(home: Any, rental: Rental) -> None:
    rental.relays.filter(slot=3).update(slot=None, status=Relay.Status.RELEASED)
    text = home()
    assert text.count("waiting for a server") == 1
    assert running(text) == 2
    assert "fewer than three servers" in text


def test_home_says_that_nothing_is_to_be_done_when_a_relay_is_replaced(home: Any, rental: Rental) -> None:
    RelayFactory(
        rental=rental,
        slot=None,
        server=ServerFactory(whole=True),
        whole=True,
        status=Relay.Status.REMOVING,
        failure_code="daemon_down",
    )
    rental.relays.filter(slot=2).update(status=Relay.Status.PLANNED, proven_at=None)
    text = home()
    assert running(text) == 2
    assert "rebuilt on another server" in text


def test_home_warns_and_offers_renewal_when_the_end_is_near(home: Any, rental: Rental) -> None:
    assert not re.search(r'btn-primary[^>]*href="/redeem/"', home())
    Rental.objects.filter(pk=rental.pk).update(
        ends_at=timezone.now() + timedelta(days=3), runs_until=timezone.now() + timedelta(days=3)
    )
    text = home()
    assert "alert-warning" in text
    assert re.search(r'class="btn btn-primary w-100" href="/redeem/"', text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "word", "has_box"),
    [
        (dict.fromkeys(("ends_at", "runs_until"), timezone.now() - timedelta(days=3)), "Expired", True),
        ({"paused_at": timezone.now() - timedelta(days=3)}, "Paused", False),
        ({"closed_at": timezone.now() - timedelta(days=3)}, "Closed", False),
    ],
)
def test_home_says_what_has_ended_and_when(
    home: Any, rental: Rental, fields: dict[str, Any], word: str, has_box: bool
) -> None:
    Rental.objects.filter(pk=rental.pk).update(**fields)
    text = home()
    assert f'<div class="home-days">{word}</div>' in text
    assert "3 days ago" in text
    assert ("data-serial-input" in text) is has_box
    assert 'id="relays"' not in text
    assert 'id="derp-map"' not in text


def test_home_leads_to_what_moved_the_end(home: Any, rental: Rental) -> None:
    link = "/history/?kind=redemption"
    assert f'href="{link}"' in home()
    page = world.sign_in(rental.user).get(link)
    assert rental.redemptions.get().serial.masked in page.text  # type: ignore[union-attr]


def test_pages_that_fetch_themselves_again_reload_when_the_rental_has_ended(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    assert "HX-Refresh" not in client.get("/home/relays/").headers
    Rental.objects.filter(pk=rental.pk).update(ends_at=timezone.now(), runs_until=timezone.now())
    for path in ("/home/relays/", "/home/map/"):
        assert client.get(path).headers["HX-Refresh"] == "true"


def test_the_map_is_fetched_again_with_the_rental_when_it_is_another_one(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    assert "HX-Trigger" not in client.get("/home/relays/?map=1").headers
    assert client.get("/home/relays/?map=").headers["HX-Trigger"] == '{"map-changed": {}}'
    text = client.get("/home/map/").content.decode()
    assert 'id="derp-map"' in text
    assert re.search(r'id="rental"[^>]* hx-swap-oob="true"', text)
