"""`manage.py demo` on the sandbox, with real processes."""

import json
import signal
import stat
from pathlib import Path

import pytest

from tests.panel.running import Folder, Running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("demo") / "var")


def read(folder: Folder) -> dict:
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

        for code in first["serials"]:
            redeemed = folder.manage("serial_redeem", "customer@example.com", code)
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
        assert not set(again["serials"]) & set(first["serials"])
        probed = folder.manage("relay_probe", "customer@example.com")
        assert probed.returncode == 0, probed.stderr

        panel.end(signal.SIGKILL)


def test_a_panel_does_not_inherit_the_demo_when_one_ran_in_its_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    (folder.path / "demo").mkdir(parents=True)
    seen = folder.python("from django.conf import settings; print(settings.VAR_DIR, settings.IS_DEMO)")
    assert seen == f"{folder.path} False"
