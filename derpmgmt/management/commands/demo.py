import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.gate_image import find_nginx
from containers.image import ImageError, compile_derper
from derpmgmt import demo
from derpmgmt.demo_brand import seed_brand
from derpmgmt.lib import env
from derpmgmt.lib.files import write_private
from derpmgmt.lib.processes import Program
from derpmgmt.management.commands import up
from derpmgmt.panel import SILENT_SECONDS, CannotStart, Panel

SANDBOX_SERVERS = 4


class Demo(Panel):
    """A panel with made-up people, servers and serial numbers, in a state folder of its own."""

    ready_seconds = 120.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.output = self._log_file = settings.VAR_DIR / "demo.log"
        fleet = env.read("FLEET") or "sandbox"
        if fleet not in {"sandbox", "lab"}:
            raise CommandError(_("DERPMGMT_FLEET: sandbox or lab, not %(fleet)s") % {"fleet": fleet})
        self._is_lab = fleet == "lab"
        folder = env.BASE_DIR / "var" / "lab" if self._is_lab else settings.VAR_DIR / "sandbox"
        self._hosts_file = folder / ("lab.json" if self._is_lab else "hosts.json")

    def fleet(self) -> list[Program]:
        _record_file().unlink(missing_ok=True)
        self._log_file.unlink(missing_ok=True)
        if self._is_lab:
            if not self._hosts_file.exists():
                raise CannotStart(_("There is no lab. Bring it up first: make lab-up (as root)."))
            return []
        self._hosts_file.unlink(missing_ok=True)
        return [Program("sandbox", self._become_sandbox)]

    def is_fleet_up(self) -> bool:
        return self._hosts_file.exists()

    def settle(self) -> None:
        demo.seed_people()
        seed_brand()
        try:
            demo.seed_images(self._derper, lambda: find_nginx() if self._is_lab else None)
        except ImageError as error:
            raise CannotStart(str(error)) from error
        hosts = json.loads(self._hosts_file.read_text())
        checked = demo.seed_servers(hosts["hosts"] if self._is_lab else hosts, self.say)
        self._wait_for_checks(checked)
        record = {
            "url": settings.PUBLIC_URL,
            "mailbox": f"{settings.PUBLIC_URL}/mailbox/",
            "admin": f"{settings.PUBLIC_URL}/admin/",
            "fleet": "lab" if self._is_lab else "sandbox",
            "logins": demo.read_logins(),
            "serials": demo.seed_serials(),
        }
        write_private(_record_file().with_suffix(".next"), json.dumps(record, indent=2))

    def _wait_for_checks(self, checked: list[int]) -> None:
        """Until the servers' checks have ended, well or not: what somebody did to a server must not keep the demo from starting."""
        began = said_at = time.monotonic()
        said: set[int] = set()
        while waiting := demo.waiting_servers(checked):
            now = time.monotonic()
            if now > began + self.ready_seconds:
                break
            pks = {server.pk for server in waiting}
            if now > said_at + SILENT_SECONDS and pks != said:
                said, said_at = pks, now
                names = ", ".join(server.name for server in waiting)
                self.say(_("Waiting for the checks of these servers: %(names)s …") % {"names": names})
            time.sleep(0.1)
        if missing := demo.missing_servers():
            names = "; ".join(f"{server} ({server.get_status_display()})" for server in missing)
            self.say(
                _(
                    "Too few servers are usable for a customer's three relays: %(names)s. "
                    "The admin says why; “make demo-reset” begins anew."
                )
                % {"names": names}
            )

    def announce(self) -> None:
        _record_file().with_suffix(".next").replace(_record_file())
        record = json.loads(_record_file().read_text())
        rows = [
            (
                login["email"],
                login["password"],
                _("second factor: the code on the mailbox page") if "totp_secret" in login else "",
            )
            for login in record["logins"].values()
        ]
        self.say("")
        self.say(_("The demo is ready: %(url)s  (Ctrl-C ends it)") % {"url": record["url"]})
        self.say("")
        self.say(_("Sign in as:"))
        for email, password, hint in rows:
            self.say(f"  {email:<24} {password}  {hint}".rstrip())
        self.say(_("Unused serial numbers:"))
        for code in record["serials"]:
            self.say(f"  {code}")
        self.say(_("Mail of the demo, and the codes of its staff: %(url)s") % {"url": record["mailbox"]})
        self.say(_("The admin: %(url)s") % {"url": record["admin"]})
        self.say(
            _("The same for scripts: %(path)s; what the processes say: %(log)s")
            % {"path": _record_file(), "log": self._log_file}
        )

    def _become_sandbox(self) -> None:
        os.chdir(env.BASE_DIR)
        command = [sys.executable, "-m", "derpmgmt.sandbox", "--state", str(self._hosts_file.parent)]
        command += ["--servers", str(SANDBOX_SERVERS), "--subnet", _subnet()]
        os.execv(sys.executable, command)  # noqa: S606 — no shell is wanted

    def _derper(self) -> Path | None:
        if not self._is_lab:
            return None
        folder = env.BASE_DIR / "var" / "derper"
        built = sorted(folder.glob("derper-*"))
        if built:
            return built[-1]
        self.say(_("Building derper with Go; the first time takes minutes …"))
        return compile_derper(folder)


class Command(up.Command):
    """The demo."""

    help: Any = gettext_lazy("Runs a demo: the whole panel with made-up people, servers and serial numbers.")
    panel_class = Demo


def _record_file() -> Path:
    return env.home() / "demo.json"


def _subnet() -> str:
    # Demos in different folders of one machine do not take each other's ports.
    return f"127.77.{hashlib.sha256(str(settings.VAR_DIR).encode()).digest()[0]}"
