"""The checks that a server passes before it is taken into use."""

import logging
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from django.conf import settings
from django.utils import timezone, translation
from django.utils.translation import gettext_noop

from containers import deploy
from containers.derp.probe import CAUSES, ProbeResult
from containers.image import ImageArchive
from containers.jobs import gates
from containers.jobs.claims import ClaimLost, server_queue, take_step, working
from containers.jobs.deployments import prove
from containers.models import Relay, ServerCheck
from containers.services import checks, images, relays, visits
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import JobRecord, worker_name
from derpmgmt.lib.problems import INTERNAL, Problem
from fleet import facts
from fleet import services as fleet_services
from fleet.contact import contact
from fleet.engine import Engine, engine_errors
from fleet.engine_errors import EngineError, port_in
from fleet.models import Server
from fleet.ssh import RemoteError

log = logging.getLogger(__name__)

# What a server needs to be taken into use.
MIN_DISK_BYTES = 1_000_000_000
MAX_CLOCK_SECONDS = 30.0
# What findings from before say and the code does not any more, so that it stays translated.
gettext_noop("%(free)s GB of disk are free.")
gettext_noop("Allow this in the provider's security group and check again:")
gettext_noop(
    "Published UDP ports are rewritten on that host: Docker runs rootless there, or without iptables, or leads packets through "
    "a proxy program. Use the system's own Docker Engine with iptables switched on."
)
# Causes that no rule of a security group cures.
_REWRITTEN = frozenset({"mapped_differs", "mapped_private"})
# So many ports that strangers have are passed over for one throw-away relay.
_PORT_TRIES = 10


def request_check(server_pk: int) -> None:
    """A host key was confirmed: have the server checked, unless the sweep has seen to it."""
    if Server.objects.filter(pk=server_pk, is_check_due=True).exists():
        checks.request_check(server_pk=server_pk)


@queue.on_queue(server_queue)
def check_server(server_pk: int) -> None:
    """Check a server step by step, prove it with throw-away relays, and take it into use when all is well."""
    check = ServerCheck.objects.open().select_related("server__credential").filter(server=server_pk).first()
    if check is None:
        return
    server = check.server
    with fleet_services.lease(server.pk, worker_name()) as is_ours:
        if not is_ours or not check.claim():
            return
        try:
            with working(server.pk, check):
                is_good = _check(server, check)
        except ClaimLost:
            return
        except RemoteError as error:
            is_good = False
            finding = checks.Finding.of(check.step or "connect", Problem.of(error))
            checks.add_finding(check=check, finding=finding)
        except Exception:
            log.exception("check of %s", server.name)
            check.finish(JobRecord.Status.ERRORED, Problem(INTERNAL))
            return
        finally:
            checks.drop_throwaways(server=server)
        if is_good:
            fleet_services.accept_server(server=server)
            check.finish(JobRecord.Status.DONE)
            return
        worst = next(finding for finding in check.findings if not finding["is_ok"])
        check.finish(JobRecord.Status.FAILED, checks.Finding(**worst).problem)


class _Found(Protocol):
    """Writes a finding of the step under way; gives back whether it is a good one."""

    def __call__(self, is_ok: bool, sentence: str, remedy: str = "", **values: object) -> bool: ...


def _check(server: Server, check: ServerCheck) -> bool:
    def found(is_ok: bool, sentence: str, remedy: str = "", **values: object) -> bool:
        finding = checks.Finding(
            check.step, is_ok, sentence, {key: str(value) for key, value in values.items()}, remedy
        )
        checks.add_finding(check=check, finding=finding)
        return is_ok

    take_step(check, "connect", f"{server.ssh_address}:{server.ssh_port}")
    with contact(server) as reached:
        found(True, gettext_noop("Signed in; the host key is the confirmed one."))
        take_step(check, "docker")
        visits.check_owner(server.pk, deploy.read_standing(reached.engine, settings.PANEL_ID))
        version = reached.engine.engine_version or "?"
        Server.objects.filter(pk=server.pk).update(docker_version=version[:40])
        found(True, gettext_noop("Docker Engine %(version)s answers."), version=version)
        archive = images.current_image(reached.engine.architecture)
        images.current_gate_image(reached.engine.architecture)
        is_good = _judge_engine(reached.engine, check, found)
        take_step(check, "machine")
        server.refresh_from_db(fields=["engine_root"])
        read = facts.read_facts(reached.connection, server.docker_socket, server.engine_root)
        fleet_services.record_facts(
            server=server, facts=read, reached_at=reached.connection.peer_address, now=timezone.now()
        )
        is_good &= found(
            read.disk.free_bytes >= MIN_DISK_BYTES,
            gettext_noop("%(free)s GB are free on the disk with Docker's folder, %(folder)s."),
            gettext_noop("At least 1 GB must be free: delete what is not needed, or order a larger disk."),
            free=f"{read.disk.free_bytes / 1e9:.1f}",
            folder=server.engine_root or "?",
        )
        is_good &= found(
            abs(read.clock_offset) <= MAX_CLOCK_SECONDS,
            gettext_noop("Its clock differs from the panel's by %(offset)s s."),
            gettext_noop("Set up time synchronization on it, for example chrony."),
            offset=f"{round(read.clock_offset, 1) + 0:+.1f}",
        )
        is_good &= _judge_address(reached.engine, server, read, found)
        if not is_good:
            return False
        take_step(check, "clean")
        throwaways = checks.make_throwaways(server=server, now=timezone.now())
        deploy.remove_orphans(reached.engine, settings.PANEL_ID, visits.owned)
        if not throwaways:
            return found(False, gettext_noop("No port of its ranges is free."))
        try:
            gates.ensure_gate(reached.engine, throwaways[0], partial(take_step, check))
            take_step(check, "list")
            gates.try_list(reached.engine, server.pk)
            for relay in throwaways:
                if not _make_throwaway(reached.engine, relay, archive, check, found):
                    return False
            take_step(check, "ports")
            results = [(relay, prove(relay)) for relay in throwaways]
            is_rootless = _is_rootless(reached.engine)
        finally:
            for relay in throwaways:
                with suppress(RemoteError):
                    deploy.remove_relay(reached.engine, settings.PANEL_ID, relay.pk)
            with suppress(RemoteError):
                gates.drop_gate(reached.engine, server.pk)
    return _judge_ports(server, check, results, is_rootless=is_rootless)


def _is_rootless(engine: Engine) -> bool:
    """Whether the Engine says that it runs rootless; of `"iptables": false` it says nothing."""
    with engine_errors():
        options = engine.info().get("SecurityOptions") or []
    return any(str(option).split(",")[0] == "name=rootless" for option in options)


def _judge_engine(engine: Engine, check: ServerCheck, found: _Found) -> bool:
    """Whether the Engine's own settings let relays work; what it warns of stands in the log."""
    with engine_errors():
        info = engine.info()
    for warning in info.get("Warnings") or []:
        check.write(str(warning))
    is_good = found(
        info.get("OSType", "linux") == "linux",
        gettext_noop("The machine is %(architecture)s, and there are images for it."),
        gettext_noop("Relays need an Engine that runs Linux containers."),
        architecture=engine.architecture or "?",
    )
    # Only what it says clearly: newer Engines leave fields out.
    if info.get("IPv4Forwarding") is False:
        is_good = found(
            False,
            gettext_noop("The server forwards no IPv4 packets, so nothing reaches a container."),
            gettext_noop(
                "Switch it on for good: put net.ipv4.ip_forward=1 into /etc/sysctl.d/99-docker.conf, run sysctl --system and "
                "restart Docker."
            ),
        )
    return is_good


def _judge_address(engine: Engine, server: Server, read: facts.HostFacts, found: _Found) -> bool:
    """Whether the machine has the address that relays' ports are bound to; behind address translation it has another one."""
    if not read.addresses or server.listen_address in read.addresses:
        return True
    with engine_errors():
        networks = engine.networks()
    bridges = {
        entry.get("Gateway", "")
        for network in networks
        for entry in (network.get("IPAM") or {}).get("Config") or []
    }
    others = {
        address for address in read.addresses - bridges if not ip_address(address).is_loopback
    } or read.addresses
    likely = read.ssh_server if read.ssh_server in others else min(others)
    return found(
        False,
        gettext_noop(
            "The machine does not have the address %(address)s, which relays' ports are to be bound to. It has %(others)s."
        ),
        gettext_noop(
            "Where the provider translates addresses, name the machine's own one as “address on the machine” (on the command line "
            "--bind-address), most likely %(likely)s; else correct the public address."
        ),
        address=server.listen_address,
        others=", ".join(sorted(others)),
        likely=likely,
    )


def _make_throwaway(
    engine: Engine, relay: Relay, archive: ImageArchive, check: ServerCheck, found: _Found
) -> bool:
    """Make a relay that proves the server; where a stranger has its port, on another one, as customers' relays are."""
    taken: set[int] = set()
    for _try in range(_PORT_TRIES):
        try:
            deploy.make_so(engine, relays.spec_of(relay, archive.tag), archive, partial(take_step, check))
            return True
        except EngineError as error:
            if error.code != "port_taken":
                raise
            own = {relay.derp_port, relay.stun_port}
            named = own & {port_in(error.detail)} or own
            taken |= named
            deploy.remove_relay(engine, settings.PANEL_ID, relay.pk)
            found(
                True,
                gettext_noop(
                    "Another program on the server has port %(ports)s, so the next free one is taken."
                ),
                ports=", ".join(str(port) for port in sorted(named)),
            )
        if not checks.move_throwaway(relay=relay, taken=taken):
            break
    return found(
        False,
        gettext_noop("Other programs on the server have the ports %(ports)s of its ranges."),
        gettext_noop("Choose other port ranges for this server, or end these programs."),
        ports=", ".join(str(port) for port in sorted(taken)),
    )


_CLOSED = gettext_noop(
    'Allow the following in the provider\'s security group and check again. If it is allowed: with "iptables": false in '
    "/etc/docker/daemon.json Docker may publish no ports; then take that line out and restart Docker."
)
_ROOTLESS = gettext_noop("Docker runs rootless on this server. Install Docker's own Engine, run by root.")
_NO_IPTABLES = gettext_noop(
    'Most likely "iptables": false stands in /etc/docker/daemon.json: take that line out and restart Docker.'
)


def _judge_ports(
    server: Server, check: ServerCheck, results: list[tuple[Relay, ProbeResult]], *, is_rootless: bool
) -> bool:
    failed = [(relay, result) for relay, result in results if not result.ok]
    if not failed:
        relay, result = results[0]
        for finding in (
            checks.Finding(
                "ports",
                True,
                gettext_noop("The ports at both ends of its ranges are reached, TCP and UDP."),
            ),
            checks.Finding(
                "relay",
                True,
                gettext_noop("A throw-away relay carried a packet in %(packet)s ms."),
                {"packet": f"{result.packet_ms:.1f}"},
            ),
        ):
            checks.add_finding(check=check, finding=finding)
        return True
    for relay, result in failed:
        is_udp = result.step in {"stun", "mapped"}
        port = f"UDP {relay.stun_port}" if is_udp else f"TCP {relay.derp_port}"
        rule = (
            f"UDP {server.udp_port_first}-{server.udp_port_last} 0.0.0.0/0"
            if is_udp
            else f"TCP {server.tcp_port_first}-{server.tcp_port_last} 0.0.0.0/0"
        )
        with translation.override(None):
            cause = str(CAUSES[result.cause])
        if result.cause not in _REWRITTEN:
            remedy, rules = _CLOSED, [rule]
        else:
            remedy, rules = _ROOTLESS if is_rootless else _NO_IPTABLES, []
        checks.add_finding(
            check=check,
            finding=checks.Finding(
                "ports" if result.step in {"connect", "stun"} else "relay",
                False,
                cause,
                remedy=remedy,
                rules=rules,
                detail=f"{port}: {result.detail}",
            ),
        )
    return False
