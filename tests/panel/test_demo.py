"""`manage.py demo` on the sandbox, with real processes."""

import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.models import Authenticator

from accounts.models import User
from derpmgmt import demo
from serials.models import SerialNumber
from serials.services import find_serial
from tests.panel.running import Folder, Running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("demo") / "var")


def read(folder: Folder) -> dict[str, Any]:
    """What the demo tells scripts."""
    return json.loads((folder.path / "demo.json").read_text())


def sign_in(panel: Running, login: dict[str, str]) -> str:
    """What `authenticate` makes of a login."""
    code = (
        "from django.contrib.auth import authenticate; from django.test import RequestFactory;"
        f"user = authenticate(RequestFactory().post('/'), email={login['email']!r}, password={login['password']!r});"
        "print(user.role)"
    )
    return panel.folder.python(code)


def test_the_demo_is_whole_when_it_is_ready_and_finds_its_data_when_started_again(folder: Folder) -> None:
    with folder.running("demo") as panel:
        first = read(folder)
        assert stat.S_IMODE((folder.path / "demo.json").stat().st_mode) == 0o600
        assert first["url"] == f"http://127.0.0.1:{folder.port}"
        assert panel.get("/") == 200
        assert panel.get("/mailbox/") == 200
        assert set(first["logins"]) == {"customer", "distributor", "admin", "superadmin"}
        assert len(set(first["serials"])) == 3
        assert sign_in(panel, first["logins"]["superadmin"]) == "superadmin"

        servers = json.loads(folder.manage("server_list", "--json").stdout)
        assert [server["status"] for server in servers] == ["healthy"] * 4
        assert len({server["region"] for server in servers}) == 3

        redeemed = folder.manage("serial_redeem", "customer@example.com", first["serials"][0])
        assert redeemed.returncode == 0, redeemed.stderr
        relays = json.loads(folder.manage("relay_list", "customer@example.com", "--json").stdout)
        assert [relay["status"] for relay in relays] == ["running"] * 3

        assert panel.end(signal.SIGTERM) == 0
        assert (folder.path / "demo" / "panel.sqlite3").exists()
        assert not (folder.path / "panel.sqlite3").exists()

    with folder.running("demo") as panel:
        again = read(folder)
        assert again["logins"] == first["logins"]
        assert len(set(again["serials"])) == 3
        assert first["serials"][0] not in again["serials"]
        probed = folder.manage("relay_probe", "customer@example.com")
        assert probed.returncode == 0, probed.stderr

        panel.end(signal.SIGKILL)


@pytest.mark.django_db
def test_people_stay_as_they_are_when_they_are_made_again(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path
    demo.seed_people()
    first = demo.read_logins()
    demo.seed_people()

    assert demo.read_logins() == first
    assert stat.S_IMODE((tmp_path / "logins.json").stat().st_mode) == 0o600
    assert {user.role for user in User.objects.all()} == set(User.Role.values)
    codes = {staff.email: staff.code for staff in demo.staff_codes()}
    assert set(codes) == {first[name]["email"] for name in ("admin", "superadmin")}
    for authenticator in Authenticator.objects.select_related("user"):
        assert authenticator.wrap().validate_code(codes[authenticator.user.email])


@pytest.mark.django_db
def test_people_can_sign_in_when_their_passwords_were_lost(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path
    demo.seed_people()
    (tmp_path / "logins.json").unlink()
    demo.seed_people()

    for login in demo.read_logins().values():
        assert User.objects.get(email=login["email"]).check_password(login["password"])
    (staff, *_) = [staff for staff in demo.staff_codes() if staff.email == "admin@example.com"]
    assert Authenticator.objects.get(user__email=staff.email).wrap().validate_code(staff.code)


@pytest.mark.django_db
def test_there_are_three_serial_numbers_when_most_are_used() -> None:
    first = demo.seed_serials()
    assert demo.seed_serials() == first
    kept = SerialNumber.objects.unused().order_by("pk").values_list("pk", flat=True)[:2]
    SerialNumber.objects.exclude(pk__in=list(kept)).update(status=SerialNumber.Status.RECALLED)

    again = demo.seed_serials()
    assert len(set(again)) == 3
    assert again[:2] == first[:2]
    assert all(find_serial(code) for code in again)


def test_a_panel_does_not_inherit_the_demo_when_one_ran_in_its_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    (folder.path / "demo").mkdir(parents=True)
    seen = folder.python("from django.conf import settings; print(settings.VAR_DIR, settings.IS_DEMO)")
    assert seen == f"{folder.path} False"
