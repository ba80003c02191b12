"""`manage.py demo` on the sandbox, with real processes."""

import json
import re
import signal
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client

from accounts.brand import current_brand
from accounts.models import User
from accounts.services import change_brand, change_user, close_account
from derpmgmt import demo
from derpmgmt.demo_brand import seed_brand
from serials.numbers.models import SerialNumber
from serials.numbers.services import find_serial
from tests.panel.running import ROOT, Folder, Running, wait_for

pytestmark = pytest.mark.slow

# A server of one's own that does not answer, one of the demo's under another name, one retired; an account with another password, and
# one that is banned.
DISTURB = """
from accounts.models import User
from accounts.services import ban_user
from fleet.models import Server
from fleet.services import confirm_host_key, create_server, retire_server

Server.objects.filter(name="beijing-1").update(name="renamed", ssh_port=1)
# Of the two in this region the one without a relay.
gone = Server.objects.get(name__startswith="shanghai", relays=None)
retire_server(server=gone, by=None)
mine = create_server(
    by=None, name="mine", region=gone.region, address="127.99.0.1", ssh_port=1, credential=gone.credential
)
key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
confirm_host_key(server=mine, line=key, by=None)
admin = User.objects.get(username="admin")
admin.set_password("changed")
admin.save()
ban_user(user=User.objects.get(username="distributor"), by=None)
"""


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


def ask_like_the_client(folder: Folder, url: str, serial: str) -> dict[str, Any]:
    """The map that the client of `docs/` writes for a new customer; the code comes from the demo's mailbox."""
    file = folder.path.parent / "map.json"
    client = subprocess.Popen(
        [sys.executable, ROOT / "docs/api_client.py", url, "new@example.com", serial, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert client.stdin
    client.stdin.write("quiet-river-42\n")
    client.stdin.flush()
    mails = folder.path / "demo" / "mail"
    found: list[str] = []

    def has_come() -> bool:
        texts = [path.read_text(errors="replace") for path in mails.iterdir()] if mails.exists() else []
        found[:] = [
            code
            for text in texts
            if "new@example.com" in text
            for code in re.findall(r"^\d{6}$", text, re.MULTILINE)
        ]
        return bool(found) or client.poll() is not None

    wait_for(has_come, "a code comes by mail", 30)
    told, _errors = client.communicate(f"{found[0]}\n" if found else None, timeout=60)
    assert client.returncode == 0, told
    return json.loads(file.read_text())


@pytest.mark.timeout(600)
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

    # What somebody may do in it.
    done = folder.manage("shell", "--verbosity", "0", "-c", DISTURB, DERPMGMT_DEMO="yes")
    assert done.returncode == 0, done.stderr
    (folder.path / "demo" / "demo.log").write_bytes(b"\xff")
    with folder.running("demo") as panel:
        again = read(folder)
        assert again["logins"]["customer"] == first["logins"]["customer"]
        for login in again["logins"].values():
            assert sign_in(panel, login)
        names = {
            server["name"]: server for server in json.loads(folder.manage("server_list", "--json").stdout)
        }
        assert {"shanghai-1", "guangzhou-1", "renamed", "shanghai-2", "mine"} <= set(names)
        assert all(names[name]["status"] == "healthy" for name in set(names) - {"mine"} if "†" not in name)
        refused = reset(folder)
        assert refused.returncode == 1
        assert str(panel.process.pid) in refused.stderr
        assert (folder.path / "demo" / "panel.sqlite3").exists()
        assert len(set(again["serials"])) == 3
        made = ask_like_the_client(folder, again["url"], again["serials"][1])
        assert len(made["Regions"]) == 3
        assert first["serials"][0] not in again["serials"]
        probed = folder.manage("relay_probe", "customer@example.com")
        assert probed.returncode == 0, probed.stderr

        panel.end(signal.SIGKILL)

    done = reset(folder)
    assert done.returncode == 0, done.stderr
    assert not (folder.path / "demo").exists()
    assert not (folder.path / "demo.json").exists()


def reset(folder: Folder, **more: str) -> subprocess.CompletedProcess[str]:
    """`make demo-reset`."""
    command = [sys.executable, "-m", "derpmgmt.reset"]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=folder.environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_reset_removes_the_demos_own_state_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    for name in ("demo/keys/lookup", "demo-lab/panel.sqlite3", "panel.sqlite3", "keys/lookup", "demo.json"):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).touch()  # the keys of the demo are broken too
    said = reset(folder, LANG="C.UTF-8", LC_ALL="")
    assert said.returncode == 0
    assert "make demo" in said.stdout
    left = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    assert left == {"demo-lab/panel.sqlite3", "panel.sqlite3", "keys/lookup", "running.lock"}
    for language in ("zh_CN.UTF-8", ""):  # where nothing is said, Chinese, as of all commands
        again = reset(folder, LANG=language, LC_ALL="", LC_MESSAGES="")
        assert again.returncode == 0
        assert "没有演示环境" in again.stdout


@pytest.mark.django_db
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"customer": 5}', b"\xff"])
def test_a_broken_file_of_logins_is_made_anew(settings: Any, tmp_path: Path, content: bytes) -> None:
    settings.VAR_DIR = tmp_path
    demo.seed_people()
    (tmp_path / "logins.json").write_bytes(content)
    demo.seed_people()
    assert User.objects.count() == len(User.Role.values)
    for login in demo.read_logins().values():
        assert User.objects.get(email=login["email"]).check_password(login["password"])


@pytest.mark.django_db
def test_logins_are_right_whatever_was_done_to_the_accounts(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path
    demo.seed_people()
    first = demo.read_logins()
    people = {name: User.objects.get(email=login["email"]) for name, login in first.items()}
    people["customer"].set_password("changed")
    people["customer"].save()
    close_account(user=people["distributor"], by=None)
    change_user(user=people["admin"], by=None, username="boss", language="en", role=User.Role.SUPERADMIN)
    people["superadmin"].email = "moved@example.com"
    people["superadmin"].save()
    demo.seed_people()

    again = demo.read_logins()
    assert again["superadmin"]["email"] == "moved@example.com"
    for name, login in again.items():
        user = User.objects.get(email=login["email"])
        assert user.is_active
        assert user.check_password(login["password"])
        assert user.role == ("user" if name == "customer" else name)
    assert User.objects.get(username="boss").role == User.Role.SUPERADMIN
    demo.seed_people()
    assert demo.read_logins() == again


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


@pytest.mark.django_db
def test_the_demo_goes_by_a_whole_brand_which_stays_as_it_is_left(client: Client) -> None:
    seed_brand()
    brand = current_brand()
    assert all(getattr(brand, field.name) for field in fields(brand) if field.name != "logo_is_wide")
    for address in (brand.logo_url, brand.icon_url, brand.code_url):
        picture = client.get(address)
        assert (picture.status_code, picture["Content-Type"]) == (200, "image/png")
    for address in ("/terms/", "/privacy/", "/accounts/signup/", "/"):
        page = client.get(address).content.decode()
        assert "鹊桥中继" in page
        assert "derpmgmt" not in page.replace("/static/", "")
    change_brand(by=None, name="Mine", logo=None)
    seed_brand()
    assert (current_brand().name, current_brand().logo_url) == ("Mine", "")
