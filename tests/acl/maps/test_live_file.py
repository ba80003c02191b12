"""The live map as the file that Headscale reads from `derp.paths`, and the five lines of cron that keep the last good one."""

import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import time_machine
import yaml
from django.test import Client
from django.utils import timezone

from acl.maps import copies, derpmap, jobs, services
from acl.maps.models import AclEvent
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.reading import database_away, get, is_passed_over

pytestmark = pytest.mark.django_db


def test_file_has_the_map_with_keys_in_lower_case(rental: Rental, path: str) -> None:
    config = services.active_config(rental)
    assert config
    answer = get(f"{path}?format=headscale")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/yaml; charset=utf-8")
    region = config.derp_map["Regions"]["901"]
    (node,) = region["Nodes"]
    assert yaml.safe_load(answer.text) == {
        "regions": {
            901: {
                "regionid": 901,
                "regioncode": region["RegionCode"],
                "regionname": region["RegionName"],
                "latitude": 31.23,
                "longitude": 121.47,
                "nodes": [
                    {
                        "name": "901a",
                        "regionid": 901,
                        "hostname": node["HostName"],
                        "certname": node["CertName"],
                        "ipv4": node["IPv4"],
                        "stunport": node["STUNPort"],
                        "derpport": node["DERPPort"],
                    }
                ],
            }
        }
    }
    assert answer.headers["Cache-Control"] == "private, max-age=5"


def test_file_and_json_have_etags_of_their_own(path: str) -> None:
    file, plain = get(f"{path}?format=headscale"), get(path)
    assert file.headers["ETag"] != plain.headers["ETag"]
    again = get(f"{path}?format=headscale", If_None_Match=file.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert get(path, If_None_Match=file.headers["ETag"]).status_code == 200
    head = Client().head(f"{path}?format=headscale")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(file.content)))
    assert get(f"{path}?format=json").content == plain.content


def test_no_query_is_asked_for_the_file_when_the_copy_is_young(
    path: str, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        assert "901" in get(f"{path}?format=headscale").text


def test_file_has_no_regions_when_the_rental_has_ended(rental: Rental, path: str) -> None:
    Rental.objects.update(runs_until=timezone.now())
    Relay.objects.update(status="released", slot=None)
    jobs.refresh_acl(rental.pk)
    answer = get(f"{path}?format=headscale")
    assert (answer.status_code, answer.text) == (200, "regions: {}\n")


def test_file_ends_on_time_when_nothing_else_runs(rental: Rental, path: str) -> None:
    Rental.objects.update(runs_until=timezone.now())
    jobs.refresh_acl(rental.pk)
    with database_away(), time_machine.travel(timezone.now() + timedelta(days=1)):
        assert get(f"{path}?format=headscale").text == "regions: {}\n"


def test_unknown_format_is_refused(path: str) -> None:
    for name in ("yaml", "Headscale", "hujson", "x" * 9999):
        answer = get(f"{path}?format={name}")
        assert answer.status_code == 400
        assert is_passed_over(answer)


def test_fetches_of_the_file_are_logged_as_such(rental: Rental, path: str) -> None:
    for address in (path, f"{path}?format=headscale", f"{path}?format=headscale"):
        get(address)
    services.record_fetches()
    events = AclEvent.objects.filter(kind="fetched").order_by("file_format")
    assert list(events.values_list("file_format", "count")) == [("json", 1), ("yaml", 2)]


def test_counts_of_a_release_that_knew_one_form_are_read(path: str) -> None:
    copies._redis().zadd("live:fetched", {'20260101 abc [3, "198.51.100.7", "curl"]': 1.0})
    (found,), _until = copies.read_fetches(10)
    assert (found.version, found.ip, found.browser, found.file_format) == (3, "198.51.100.7", "curl", "json")


# The timer


@pytest.fixture
def panel() -> Iterator[Any]:
    """Answers with `panel.says`: a status and a body."""

    class Panel(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = self.server.says  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: Any) -> None:
            pass

    server: Any = HTTPServer(("127.0.0.1", 0), Panel)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run_timer(address: str, file: Path) -> None:
    """What cron does each minute with the five lines."""
    lines = derpmap.to_headscale_timer(address).splitlines()
    assert len(lines) == 5
    settings = dict(line.split("=", 1) for line in lines[1:4])
    assert settings["MAP"] == derpmap.HEADSCALE_PATH
    schedule, user, command = lines[4][:9], lines[4].split()[5], lines[4].split("root ", 1)[1]
    assert (schedule, user) == ("* * * * *", "root")
    env = {"PATH": "/usr/bin:/bin", "URL": settings["URL"], "MAP": str(file)}
    subprocess.run([settings["SHELL"], "-c", command], env=env, timeout=60, capture_output=True)


def test_timer_keeps_the_last_good_map(panel: Any, tmp_path: Path) -> None:
    address, file = f"http://127.0.0.1:{panel.server_port}/live/x.json", tmp_path / "derpmgmt.yaml"
    panel.says = 503, "The map cannot be read at the moment.\n"
    run_timer(address, file)
    assert not file.exists()
    panel.says = 200, "regions:\n  901: {}\n"
    run_timer(address, file)
    assert file.read_text() == "regions:\n  901: {}\n"
    assert file.stat().st_mode & 0o777 == 0o644
    for answer in (
        (429, "Too many requests.\n"),
        (503, "regions: {}\n"),
        (404, "There is no map\n"),
        (200, "<html>Sign in to this network</html>"),
        (302, ""),
    ):
        panel.says = answer
        run_timer(address, file)
        assert file.read_text() == "regions:\n  901: {}\n"
    panel.says = 200, "regions: {}\n"
    run_timer(address, file)
    assert file.read_text() == "regions: {}\n"
