"""What the operators' commands about servers share: naming one, its options, its host key, and following its checks."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from containers.models import ServerCheck
from containers.services import checks
from containers.steps import name_steps
from derpmgmt.lib.arguments import MOST_GB, amount, number, or_otherwise
from derpmgmt.lib.commands import CommandRefused, PanelCommand
from fleet import adding
from fleet.models import Region, Server, SshCredential, retired_name
from fleet.ssh import HostKey, RemoteError
from serials.rentals.wording import BYTES_PER_GB

# A check that loads the image over a slow line takes its time; the command says so while it waits.
WAIT_SECONDS = 600


def port_range(text: str) -> tuple[int, int]:
    """First and last port of what somebody typed; raises `ArgumentTypeError`."""
    first, _sep, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(_("a port range looks like 20000-20999")) from error


def _read_key(path: Path) -> str:
    """The private SSH key in a file; raises `CommandError` when it cannot be read or holds none."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        values = {"path": path, "reason": error.strerror}
        raise CommandRefused(
            _("%(path)s cannot be read: %(reason)s") % values, code="key_unreadable"
        ) from error
    from fleet.ssh import load_private_key

    try:
        load_private_key(text)  # an empty file too
        return adding.tidy_key(text)
    except RemoteError as error:
        raise CommandError(f"{path}: {error}") from error


class ServerCommand(PanelCommand):
    """A command about one server."""

    def add_name(self, parser: CommandParser) -> None:
        """The argument that names a server in the panel."""
        parser.add_argument("server", metavar="SERVER", help=_("name or public address of the server"))

    def add_sign_in(self, parser: CommandParser) -> None:
        """The options that say how the panel signs in."""
        parser.add_argument("--user", help=_("user on the server (root)"))
        parser.add_argument("--key", type=Path, help=_("file with the private SSH key"))
        parser.add_argument(
            "--password-stdin", action="store_true", help=_("read the SSH password from standard input")
        )
        parser.add_argument(
            "--credential", help=_("name of a stored SSH credential instead of --user and --key")
        )
        parser.add_argument("--host-key", help=_("expected fingerprint, SHA256:…; asked for when missing"))

    def add_fields(self, parser: CommandParser, *, with_defaults: bool) -> None:
        """The options for a server's fields; without defaults, what is not given is None."""

        def default(value: Any) -> Any:
            return value if with_defaults else None

        parser.add_argument("--ssh-host", default=default(""), help=_("address for SSH where it differs"))
        parser.add_argument("--ssh-port", type=int, default=default(22))
        parser.add_argument(
            "--bind-address", help=_("the machine's own IPv4 where the provider translates addresses")
        )
        parser.add_argument("--docker-socket", default=default("/var/run/docker.sock"))
        parser.add_argument("--capacity", type=int, default=default(50), help=_("relays it may hold (50)"))
        parser.add_argument(
            "--tcp-ports", type=port_range, default=default((20000, 20999)), help="20000-20999"
        )
        parser.add_argument(
            "--udp-ports", type=port_range, default=default((20000, 20999)), help="20000-20999"
        )
        parser.add_argument(
            "--fail-open",
            action=argparse.BooleanOptionalAction,
            default=default(False),
            help=_("let everybody in when neither the panel nor the gate answers"),
        )
        parser.add_argument(
            "--traffic-reset-day",
            type=int,
            metavar="DAY",
            default=default(1),
            help=_("day of the month on which the provider counts its traffic anew (1)"),
        )
        given: dict[str, Any] = {"nargs": 1}
        parser.add_argument(
            "--traffic-limit", metavar="GB", type=or_otherwise(amount(BYTES_PER_GB, MOST_GB, least="0.001")), **given,
            help=_("traffic a month, both ways together; - = unlimited"),
        )  # fmt: skip
        parser.add_argument(
            "--customers", metavar="N", type=or_otherwise(number(0, 2**31 - 1)), **given,
            help=_("customers it may hold; - = as many as it has relays for"),
        )  # fmt: skip

    @staticmethod
    def read_fields(options: dict[str, Any]) -> dict[str, Any]:
        """The fields of a server that the options of `add_fields` give."""
        fields = {
            name: options[name]
            for name in ("ssh_host", "ssh_port", "docker_socket", "capacity", "traffic_reset_day")
            if options[name] is not None
        }
        if options["bind_address"] is not None:
            fields["bind_address"] = options["bind_address"] or None
        for kind in ("tcp", "udp"):
            if options[f"{kind}_ports"] is not None:
                fields[f"{kind}_port_first"], fields[f"{kind}_port_last"] = options[f"{kind}_ports"]
        for option, name in (("traffic_limit", "traffic_limit_bytes"), ("customers", "customer_limit")):
            if options[option] is not None:
                (fields[name],) = options[option]
        if options["fail_open"] is not None:
            fields["is_fail_open"] = options["fail_open"]
        return fields

    @staticmethod
    def find_region(code: str) -> Region:
        """The region with a code; raises `CommandError`."""
        region = Region.objects.filter(code=code).first()
        if region is None:
            known = list(Region.objects.values_list("code", flat=True))
            raise CommandRefused(
                _("There is no region %(code)s; there are: %(known)s.")
                % {"code": code, "known": ", ".join(known)},
                code="no_region",
                details={"known": known},
            )
        return region

    @staticmethod
    def find_server(text: str, *, with_retired: bool = False) -> Server:
        """The server in use, or being added, with this name or address; else, `with_retired`, one that was removed under that name.

        Raises `CommandError`.
        """
        everything = Server.objects.select_related("region", "credential")
        servers = everything.exclude(status=Server.Status.RETIRED)
        found = list(servers.filter(name=text)) or list(servers.filter(address=text).order_by("name"))
        if not found and with_retired:
            had_it = Q(name=text) | Q(name__startswith=retired_name(text, ""))
            found = list(everything.filter(had_it, status=Server.Status.RETIRED).order_by("-pk"))
        if not found:
            raise CommandRefused(
                _("There is no server with the name or address %(text)s.") % {"text": text}, code="no_server"
            )
        if len(found) > 1:
            names = [server.name for server in found]
            raise CommandRefused(
                _("Several servers have or had it; name one: %(names)s.") % {"names": ", ".join(names)},
                code="several_servers",
                details={"names": names},
            )
        return found[0]

    @staticmethod
    def reason_of(server: Server, check: ServerCheck | None) -> str:
        """Why a server is in its state: of one that is being added, what its checks found."""
        if server.status != Server.Status.NEW:
            return server.reason
        if not server.host_key:
            return _("Its host key waits to be confirmed.")
        if check is None:
            return _("It has not been checked yet.")
        return _("It is being checked.") if check.is_open else check.reason

    def read_credential(
        self, options: dict[str, Any], name: str, server: Server | None
    ) -> SshCredential | None:
        """The credential that the options name or give; None when they say nothing. Raises `CommandError`.

        A new one is stored under the server's name; where that is another server's, beside it.
        """
        if options["credential"]:
            credential = SshCredential.objects.filter(name=options["credential"]).first()
            if credential is None:
                raise CommandRefused(
                    _("There is no SSH credential named %(name)s.") % {"name": options["credential"]},
                    code="no_credential",
                )
            return credential
        private_key = password = ""
        if options["key"]:
            private_key = _read_key(options["key"])
        if options["password_stdin"]:
            password = sys.stdin.readline().rstrip("\n")
        if not (private_key or password):
            return None
        sign_in = adding.SignIn(options["user"] or "root", private_key, password)
        return adding.save_sign_in(name=name, sign_in=sign_in, by=None, server=server)

    @staticmethod
    def check_addresses(fields: dict[str, Any]) -> str:
        """The host that SSH would connect to with these fields; raises `CommandError` for wrong addresses, before anything connects."""
        try:
            return adding.ssh_target(fields)
        except ValidationError as error:
            raise refuse_invalid(error) from error

    def confirm_key(self, host: str, port: int, expected: str | None, pinned: str = "") -> HostKey:
        """The key that the host shows, confirmed by `expected`, by being the pinned one already, or by a person; raises
        `CommandError`."""
        from fleet.ssh import read_host_key

        self.say(_("Connecting to %(host)s port %(port)s …") % {"host": host, "port": port})
        try:
            key = read_host_key(host, port)
        except RemoteError as error:
            words = f"\n  {error.detail}" if error.detail else ""
            raise CommandError(f"{error}{words}") from error
        seen = {"fingerprint": key.fingerprint}
        if expected:
            try:
                adding.expect_key(key, expected)
            except adding.HostKeyDiffers as error:
                raise CommandRefused(str(error), code=error.code, details=seen) from error
            return key
        if key.line == pinned:
            return key
        shown = _("Host key of the server (%(type)s): %(fingerprint)s")
        shown = shown % {"type": key.type, "fingerprint": key.fingerprint}
        if not sys.stdin.isatty():
            self.say(shown)
            raise CommandRefused(
                _("Confirm it by --host-key %(fingerprint)s.") % seen,
                code="host_key_unconfirmed",
                details=seen,
            )
        self.stderr.write(shown, str)
        self.stderr.write(_("Compare it with what the server's console shows. Type yes to confirm:"), str)
        if sys.stdin.readline().strip().lower() not in {"yes", "y", "是"}:
            raise CommandRefused(_("Not confirmed; nothing was changed."), code="not_confirmed", details=seen)
        return key

    def follow_check(self, server: Server, since: int) -> None:
        """Tell how the server's checks after number `since` go, until they end; raises `CommandError` when they fail."""
        told_steps = told_findings = 0
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            check = ServerCheck.objects.filter(server=server, pk__gt=since).order_by("pk").last()
            if check is not None:
                findings = checks.read_findings(check)
                for finding in findings[told_findings:]:
                    self._tell(finding)
                told_findings = len(findings)
                steps = [step for step in name_steps(check.step_times(timezone.now())) if step.is_over]
                for step in steps[told_steps:]:
                    self.say(f"  {step.label}: {step.duration}")
                told_steps = len(steps)
                if not check.is_open:
                    if check.status == ServerCheck.Status.DONE:
                        return
                    if check.status != ServerCheck.Status.LOST:
                        raise self._failed(server, check, findings)
                    since, told_steps, told_findings = check.pk, 0, 0
            time.sleep(0.3)
        raise CommandRefused(
            _("The checks did not end in time. Does a worker run? See “manage.py up”."),
            code="check_not_ended",
            details={"server": server.name},
        )

    def _tell(self, finding: dict[str, Any]) -> None:
        self.say(f"{'✓' if finding['is_ok'] else '✗'} {finding['text']}")
        if finding["is_ok"]:
            return
        for line in (finding["remedy"], *finding["rules"]):
            if line:
                self.say(f"  {line}")
        if finding["detail"]:
            self.say("  " + _("In its own words: %(words)s") % {"words": finding["detail"]})

    def _failed(self, server: Server, check: ServerCheck, findings: list[dict[str, Any]]) -> CommandRefused:
        message = check.reason
        if check.detail:
            message += "\n" + _("In its own words: %(words)s") % {"words": check.detail}
        message += "\n" + _("When it is mended: manage.py server_check %(name)s") % {"name": server.name}
        return CommandRefused(
            message,
            code=check.error_code or check.status,
            details={
                "server": server.name,
                "step": check.step,
                "words": check.detail,
                "findings": [
                    {name: finding[name] for name in ("step", "is_ok", "text", "remedy", "rules", "detail")}
                    for finding in findings
                ],
            },
        )

    def show(self, server: Server) -> None:
        """Print the server as it is now."""
        server.refresh_from_db()
        self.emit_one(
            {
                "id": server.pk,
                "name": server.name,
                "region": server.region.code,
                "address": server.address,
                "status": server.status,
                "state": server.get_status_display(),
                "reason": server.reason,
                "fingerprint": HostKey.from_line(server.host_key).fingerprint if server.host_key else "",
            },
            {
                "name": _("Name"),
                "address": _("Address"),
                "state": _("State"),
                "reason": _("Reason"),
                "fingerprint": _("Host key"),
            },
        )

    @staticmethod
    def last_check(server: Server) -> int:
        """The number of the server's newest check; 0 when there is none."""
        return (
            ServerCheck.objects.filter(server=server).order_by("pk").values_list("pk", flat=True).last() or 0
        )


def refuse_invalid(error: ValidationError) -> CommandError:
    """The failure for input that a service found wrong."""
    refused = CommandError(" ".join(error.messages))
    refused.__cause__ = error
    return refused
