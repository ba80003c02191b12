import argparse
import sys
import time
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.models import ServerCheck
from containers.services import checks
from derpmgmt.lib.commands import PanelCommand
from fleet import services
from fleet.models import Region, Server, SshCredential
from fleet.ssh import HostKey, RemoteError, read_host_key

# A check that loads the image over a slow line takes its time; the command says so while it waits.
WAIT_SECONDS = 600


def _ports(text: str) -> tuple[int, int]:
    first, _sep, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(_("a port range looks like 20000-20999")) from error


class Command(PanelCommand):
    """Register a server, pin its host key, check it, and take it into use."""

    help: Any = gettext_lazy(
        "Add a server: connects, shows the host key's fingerprint for confirmation, checks Docker, disk, clock and ports, "
        "and proves the server with a throw-away relay."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", help=_("public IPv4 address that customers' devices reach"))
        parser.add_argument("--name", help=_("name in the panel (default: the address)"))
        parser.add_argument("--region", required=True, help=_("code of the region, for example sh"))
        parser.add_argument("--ssh-host", default="", help=_("address for SSH where it differs"))
        parser.add_argument("--ssh-port", type=int, default=22)
        parser.add_argument("--user", default="root", help=_("user on the server (root)"))
        parser.add_argument("--key", type=Path, help=_("file with the private SSH key"))
        parser.add_argument(
            "--password-stdin", action="store_true", help=_("read the SSH password from standard input")
        )
        parser.add_argument(
            "--credential", help=_("name of a stored SSH credential instead of --user and --key")
        )
        parser.add_argument("--host-key", help=_("expected fingerprint, SHA256:…; asked for when missing"))
        parser.add_argument(
            "--bind-address", help=_("the machine's own IPv4 where the provider translates addresses")
        )
        parser.add_argument("--docker-socket", default="/var/run/docker.sock")
        parser.add_argument("--capacity", type=int, default=50, help=_("relays it may hold (50)"))
        parser.add_argument("--tcp-ports", type=_ports, default=(20000, 20999), help="20000-20999")
        parser.add_argument("--udp-ports", type=_ports, default=(20000, 20999), help="20000-20999")
        parser.add_argument(
            "--fail-open",
            action="store_true",
            help=_("let everybody in when neither the panel nor the gate answers"),
        )
        parser.add_argument("--no-wait", action="store_true", help=_("do not wait for the checks"))

    def handle(self, *args: Any, **options: Any) -> None:
        region = Region.objects.filter(code=options["region"]).first()
        if region is None:
            known = ", ".join(Region.objects.values_list("code", flat=True))
            raise CommandError(
                _("There is no region %(code)s; there are: %(known)s.")
                % {"code": options["region"], "known": known}
            )
        host = options["ssh_host"] or options["address"]
        self.say(_("Connecting to %(host)s port %(port)s …") % {"host": host, "port": options["ssh_port"]})
        try:
            key = read_host_key(host, options["ssh_port"])
        except RemoteError as error:
            raise CommandError(str(error)) from error
        self._confirm(key, options["host_key"])
        name = options["name"] or options["address"]
        try:
            server = services.create_server(
                by=None,
                name=name,
                region=region,
                address=options["address"],
                credential=self._credential(options, name),
                ssh_host=options["ssh_host"],
                ssh_port=options["ssh_port"],
                bind_address=options["bind_address"],
                docker_socket=options["docker_socket"],
                capacity=options["capacity"],
                tcp_port_first=options["tcp_ports"][0],
                tcp_port_last=options["tcp_ports"][1],
                udp_port_first=options["udp_ports"][0],
                udp_port_last=options["udp_ports"][1],
                is_fail_open=options["fail_open"],
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        services.confirm_host_key(server=server, line=key.line, by=None)
        if not options["no_wait"]:
            self._wait(server)
        server.refresh_from_db()
        self.emit_one(
            {
                "id": server.pk,
                "name": server.name,
                "status": server.status,
                "state": server.get_status_display(),
                "fingerprint": key.fingerprint,
            },
            {"name": _("Name"), "state": _("State"), "fingerprint": _("Host key")},
        )

    def _confirm(self, key: HostKey, expected: str | None) -> None:
        if expected:
            if expected.strip() != key.fingerprint:
                raise CommandError(
                    _("The server shows the host key %(seen)s, not %(expected)s. Nothing was added.")
                    % {"seen": key.fingerprint, "expected": expected}
                )
            return
        self.say(
            _("Host key of the server (%(type)s): %(fingerprint)s")
            % {"type": key.type, "fingerprint": key.fingerprint}
        )
        if not sys.stdin.isatty():
            raise CommandError(
                _("Confirm it by --host-key %(fingerprint)s.") % {"fingerprint": key.fingerprint}
            )
        self.say(_("Compare it with what the server's console shows. Type yes to confirm:"))
        if input().strip().lower() not in {"yes", "y", "是"}:
            raise CommandError(_("Not confirmed; nothing was added."))

    def _credential(self, options: dict[str, Any], name: str) -> SshCredential:
        if options["credential"]:
            credential = SshCredential.objects.filter(name=options["credential"]).first()
            if credential is None:
                raise CommandError(
                    _("There is no SSH credential named %(name)s.") % {"name": options["credential"]}
                )
            return credential
        private_key = password = ""
        if options["key"]:
            try:
                private_key = options["key"].read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(str(error)) from error
        if options["password_stdin"]:
            password = sys.stdin.readline().rstrip("\n")
        if not (private_key or password):
            raise CommandError(_("Say how to sign in: --key FILE, --password-stdin or --credential NAME."))
        return services.save_credential(
            name=name, username=options["user"], private_key=private_key, password=password, by=None
        )

    def _wait(self, server: Server) -> None:
        shown = 0
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            check = ServerCheck.objects.filter(server=server).order_by("pk").last()
            if check is not None:
                findings = checks.read_findings(check)
                for finding in findings[shown:]:
                    self.say(f"{'✓' if finding['is_ok'] else '✗'} {finding['text']}")
                    for line in [finding["remedy"], *finding["rules"]] if not finding["is_ok"] else []:
                        if line:
                            self.say(f"  {line}")
                shown = len(findings)
                if not check.is_open:
                    if check.status == ServerCheck.Status.DONE:
                        return
                    if check.status != ServerCheck.Status.LOST:
                        raise CommandError(check.reason)
            time.sleep(0.3)
        raise CommandError(_("The checks did not end in time. Does a worker run? See “manage.py up”."))
