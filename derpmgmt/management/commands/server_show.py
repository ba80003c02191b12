from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.console import relay_state
from containers.models import Gate, Relay, ServerCheck
from containers.services import gates
from containers.services.usage import read_server
from containers.steps import format_seconds, step_name
from derpmgmt.lib.arguments import number
from derpmgmt.lib.commands import CONSOLE, MOST_ROWS, ROWS
from derpmgmt.server_command import ServerCommand
from fleet.models import Server
from fleet.ssh import HostKey
from serials.rentals.wording import traffic

CHECKS = 5


class Command(ServerCommand):
    """One server with all that is known of it."""

    help: Any = gettext_lazy(
        "Show a server: its state and why, what is known of the machine, its gate, its relays, its last checks."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_name(parser)
        parser.add_argument(
            "--relays", metavar="N", type=number(0, MOST_ROWS), default=ROWS,
            help=_("at most so many relays (%(rows)d)") % {"rows": ROWS},
        )  # fmt: skip
        parser.add_argument(
            "--checks", metavar="N", type=number(0, 100), default=CHECKS,
            help=_("so many of the last checks (%(rows)d)") % {"rows": CHECKS},
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        server = self.find_server(options["server"], with_retired=True)
        standing = Relay.objects.live().filter(server=server)
        checks = ServerCheck.objects.visible_to(CONSOLE).filter(server=server).defer("log").order_by("-pk")
        newest = checks.first()
        relays = standing.select_related("rental__user", "server", "last_health").order_by("pk")
        relay_rows = [_describe_relay(relay) for relay in relays[: options["relays"]]]
        check_rows = [_describe_check(check) for check in checks[: options["checks"]]]
        count = standing.count()
        row = {
            **_describe(server),
            "reason": self.reason_of(server, newest),
            "words": newest.detail if newest and server.status == Server.Status.NEW else "",
            "relay_count": count,
            "fill": f"{count}/{server.capacity}",
            **_describe_gate(server),
            "relays": relay_rows,
            "checks": check_rows,
        }
        self.emit_one(
            row,
            {"name": _("Name"), "state": _("State"), "reason": _("Reason"),
             "unhealthy_since": _("Unhealthy since"), "silent_since": _("No answer since"),
             "region_name": _("Region"), "account": _("Provider account"), "address": _("Address"),
             "bind_address": _("Address on the machine"), "ssh": "SSH", "fingerprint": _("Host key"),
             "ports": _("Ports"), "fill": _("Relays"), "docker_version": "Docker", "memory": _("Memory"),
             "disk_free": _("Free disk"), "load": _("Load per core"), "gate_state": _("Gate"),
             "gate_failure": _("The gate failed"), "is_fail_open": _("Lets everybody in when nobody can be asked"),
             "traffic_now": _("Traffic this month"), "traffic_limit": _("Traffic a month"),
             "traffic_reset_day": _("Traffic resets on day"), "traffic_runs_out_on": _("Traffic runs out on"),
             "traffic_over_at": _("Traffic used up"), "customer_limit": _("Customers at most"),
             "last_contact_at": _("Last contact"), "last_visit_at": _("Last visit"), "created_at": _("Added")},
        )  # fmt: skip
        self.emit_part(
            _("Relays"),
            relay_rows,
            {"id": "ID", "email": _("Customer"), "derp_port": "DERP", "stun_port": "STUN", "state": _("State"),
             "tested_at": _("Tested"), "is_ok": _("Passed")},
        )  # fmt: skip
        if count > len(relay_rows):
            self.say(_("There are more relays: --relays %(count)d shows all.") % {"count": count})
        self.emit_part(
            _("Checks"),
            check_rows,
            {"id": "ID", "created_at": _("Time"), "state": _("State"), "step": _("Step"),
             "duration": _("Took"), "reason": _("Reason")},
        )  # fmt: skip


def _describe(server: Server) -> dict[str, Any]:
    disk, memory, load = server.disk_free_bytes, server.memory_bytes, server.load_ratio
    flow, limit = read_server(server=server, now=timezone.now()), server.traffic_limit_bytes
    tcp, udp = (
        (server.tcp_port_first, server.tcp_port_last),
        (server.udp_port_first, server.udp_port_last),
    )
    return {
        "id": server.pk,
        "name": server.name,
        "status": server.status,
        "state": server.get_status_display(),
        "code": server.status_code,
        "unhealthy_since": server.unhealthy_since,
        "silent_since": server.silent_since,
        "region": server.region.code,
        "region_name": server.region.name,
        "account": str(server.provider_account) if server.provider_account else None,
        "address": server.address,
        "bind_address": server.bind_address,
        "ssh": f"{server.ssh_address}:{server.ssh_port}",
        "fingerprint": HostKey.from_line(server.host_key).fingerprint if server.host_key else "",
        "tcp_ports": tcp,
        "udp_ports": udp,
        "ports": f"TCP {tcp[0]}-{tcp[1]}, UDP {udp[0]}-{udp[1]}",
        "capacity": server.capacity,
        "docker_version": server.docker_version,
        "docker_socket": server.docker_socket,
        "memory_bytes": memory,
        "memory": traffic(memory) if memory is not None else None,
        "disk_free_bytes": disk,
        "disk_free": traffic(disk) if disk is not None else None,
        "load_per_core": load,
        "load": f"{load:.2f}" if load is not None else None,
        "is_fail_open": server.is_fail_open,
        "up_bytes": flow.up_bytes,
        "down_bytes": flow.down_bytes,
        "traffic_now": traffic(flow.bytes),
        "traffic_limit_bytes": limit,
        "traffic_limit": traffic(limit) if limit is not None else None,
        "traffic_reset_day": server.traffic_reset_day,
        "traffic_runs_out_on": server.traffic_runs_out_on,
        "traffic_over_at": server.traffic_over_at,
        "customer_limit": server.customer_limit,
        "is_check_due": server.is_check_due,
        "last_contact_at": server.last_contact_at,
        "last_visit_at": server.last_visit_at,
        "created_at": server.created_at,
    }


def _describe_gate(server: Server) -> dict[str, Any]:
    gate = Gate.objects.visible_to(CONSOLE).defer("secret").filter(server=server).first()
    return {
        "gate_status": gate.status if gate else None,
        "gate_state": gate.get_status_display() if gate else None,
        "gate_failure": str(gates.failure_text(gate)) if gate else "",
        "is_list_late": gate.is_list_late if gate else None,
    }


def _describe_relay(relay: Relay) -> dict[str, Any]:
    return {
        "id": relay.pk,
        "email": relay.rental.user.email if relay.rental else None,
        "slot": relay.slot,
        "derp_port": relay.derp_port,
        "stun_port": relay.stun_port,
        "status": relay.status,
        "state": relay_state(relay),
        "tested_at": relay.last_health.at if relay.last_health else None,
        "is_ok": relay.last_health.is_ok if relay.last_health else None,
    }


def _describe_check(check: ServerCheck) -> dict[str, Any]:
    took = (check.finished_at or timezone.now()) - check.started_at if check.started_at else None
    return {
        "id": check.pk,
        "created_at": check.created_at,
        "finished_at": check.finished_at,
        "status": check.status,
        "state": check.get_status_display(),
        "step_code": check.step,
        "step": step_name(check.step) if check.step else "",
        "seconds": took.total_seconds() if took else None,
        "duration": format_seconds(took.total_seconds()) if took else None,
        "reason": check.reason,
        "words": check.detail,
    }
