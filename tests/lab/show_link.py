"""`python -m tests.lab.show_link`: what operators hear when links of servers lose packets, go down, or all go down at once.

In the lab (root on Debian), with a panel as an operator runs it, three hosts and a customer's three relays on them:

1. for ten minutes (`--minutes`) every host loses 5 % of its packets in each direction (by chance, iptables): no alert;
2. the link of one host goes down (`ip link set … down`), at several moments of the visits' beat: seconds to its alert and to the
   first message about it, at most 60;
3. all links go down: after two minutes exactly one alert, the panel's own; they come back: it is over, and there is no other.

Prints the figures; exit code 1 when one misses its target. `tests/e2e/test_links.py` shows the same with a shortened clock.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.bench import _manage, _redeem, _wait_for

LOSS = 0.05
ALERT_SECONDS = 60.0
CUTS = 3
# After a cut so long it is waited whether another alert comes.
WATCH_SECONDS = 120.0
PATIENCE_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    from tests.lab.hosts import lab

    derper = os.environ["DERPMGMT_TEST_DERPER"]
    with (
        tempfile.TemporaryDirectory(prefix="derpshow-") as folder,
        lab(hosts=3, state=Path(folder, "lab")) as hosts,
    ):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        os.environ.update(
            DERPMGMT_VAR_DIR=f"{folder}/var",
            DERPMGMT_PORT=str(port),
            DERPMGMT_RELAY_URL=f"http://{hosts.gateway}:{port}",
            DJANGO_SETTINGS_MODULE="derpmgmt.settings",
        )
        with Path(folder, "panel.log").open("w") as log:
            panel = subprocess.Popen([sys.executable, "manage.py", "up"], stdout=log, stderr=log)
        try:
            _wait_for(Path(folder, "var", "running.json"), panel, Path(log.name), PATIENCE_SECONDS)
            missed = show(hosts.hosts, derper, minutes)
        finally:
            panel.terminate()
            panel.wait(timeout=60)
    if missed:
        sys.exit("\n".join(missed))


def show(hosts: list[Any], derper: str, minutes: float) -> list[str]:
    """Set the panel up, then play the three parts; returns what missed its target."""
    import django

    django.setup()
    from accounts.models import User
    from accounts.services import create_user
    from fleet.ssh import HostKey
    from serials.numbers.models import SerialNumber
    from serials.numbers.services import create_batch

    _manage("image_build", "--derper", derper)
    for host, region in zip(hosts, ("sh", "gz", "bj"), strict=True):
        fingerprint = HostKey.from_line(host.host_key).fingerprint
        _manage(
            "server_add", host.address, "--name", host.name, "--region", region, "--ssh-port", str(host.ssh_port),
            "--user", host.user, "--key", host.private_key_path, "--host-key", fingerprint,
            "--docker-socket", host.docker_socket,
        )  # fmt: skip
    batch = create_batch(name="show", days=30, count=1, by=None, is_paid=True)
    user = create_user(email="customer@example.com", username="customer")
    admin = create_user(email="admin@example.com", username="admin", role=User.Role.ADMIN)
    assert admin.is_staff
    _redeem(user, SerialNumber.objects.get(batch=batch).code)
    return [*_lossy(hosts, minutes), *_one_down(hosts[0]), *_all_down(hosts)]


def _raised(since: Any) -> list[str]:
    """What was raised since then about servers, relays and the panel; tasks are what nobody did for this panel."""
    from accounts.alerts.models import Alert

    rows = Alert.objects.filter(raised_at__gte=since).exclude(kind="task").order_by("raised_at")
    return [f"{alert.kind}: {alert.title}" for alert in rows]


def _now() -> Any:
    from django.utils import timezone

    return timezone.now()


def _wait_until(what: str, holds: Callable[[], bool]) -> float:
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise SystemExit(f"in {PATIENCE_SECONDS:.0f} s not: {what}")
        time.sleep(0.1)
    return time.monotonic() - begun


def _is_all_well() -> bool:
    from accounts.alerts.models import Alert
    from fleet.models import Server

    is_open = Alert.objects.filter(gone_at=None).exclude(kind="task").exclude(rule="panel")
    return not is_open.exists() and not Server.objects.filter(silent_since__isnull=False).exists()


def _lossy(hosts: list[Any], minutes: float) -> list[str]:
    from fleet.models import Server

    _wait_until("all is well at first", _is_all_well)
    since, seen = _now(), 0
    for host in hosts:
        host.lose_packets(LOSS)
    silences: set[Any] = set()
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        silences |= set(Server.objects.filter(silent_since__gte=since).values_list("pk", "silent_since"))
        time.sleep(1)
    raised = _raised(since)
    for host in hosts:
        host.lose_no_packets(LOSS)
    seen = len(silences)
    print(
        f"{minutes:g} min of {LOSS:.0%} loss each way: {len(raised)} alerts, {seen} lost visits {raised or ''}",
        flush=True,
    )
    return [f"{LOSS:.0%} loss raised {raised}"] if raised else []


def _one_down(host: Any) -> list[str]:
    from accounts.alerts.models import Alert
    from accounts.alerts.route_models import AlertTelling
    from fleet.models import Server

    pk, taken, told = Server.objects.get(name=host.name).pk, [], []
    for number in range(CUTS):
        _wait_until("all is well", _is_all_well)
        # At another moment of the beat each time.
        time.sleep(15 * number / CUTS)
        since = _now()
        host.cut_network()
        mine = Alert.objects.filter(server=pk, kind="server_error", raised_at__gte=since)
        taken.append(_wait_until("the alert of its server", mine.exists))
        told.append(
            taken[-1] + _wait_until("its message", AlertTelling.objects.filter(alert__in=mine).exists)
        )
        raised, row = _raised(since), Server.objects.get(pk=pk)
        first = (row.silent_since - since).total_seconds() if row.silent_since else 0
        host.mend_network()
        print(
            f"one link down: its alert after {taken[-1]:.1f} s, told after {told[-1]:.1f} s; the first visit that failed ended after {first:.1f} s {raised}",
            flush=True,
        )
    return [f"an alert took {max(taken):.1f} s"] if max(taken) > ALERT_SECONDS else []


def _all_down(hosts: list[Any]) -> list[str]:
    from accounts.alerts.models import Alert

    _wait_until("all is well", _is_all_well)
    since = _now()
    for host in hosts:
        host.cut_network()
    cut = Alert.objects.filter(rule="panel_cut_off", raised_at__gte=since)
    taken = _wait_until("the panel's own alert", cut.exists)
    time.sleep(WATCH_SECONDS)
    raised = _raised(since)
    for host in hosts:
        host.mend_network()
    back = _wait_until("it is over", lambda: not cut.filter(gone_at=None).exists())
    time.sleep(WATCH_SECONDS / 2)
    after = _raised(since)
    print(
        f"all links down: after {taken:.1f} s {raised}; over {back:.1f} s after they are back, {len(after)} alerts in all",
        flush=True,
    )
    return [] if len(after) == 1 else [f"all links down raised {after}"]


if __name__ == "__main__":
    main()
