"""`make bench`: how long a customer waits for three proven relays, in the lab, against plain `docker run` in the same run.

Prints the medians of several rounds and two ratios: the panel's time (redeem → three relays that have carried a packet) over
that of three local `docker run -d` of the same image one after another, with the ports, limits and volume that the panel's have, and
over that of the same three started through `ssh host docker run -d`. What each takes without these is printed too. Speed is judged as ratios of one run only, since machines differ. A trace says where the panel's time
went: what passes before the slowest of the three is begun, its steps, and what passes after its end.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

ROUNDS = 7
WAIT_SECONDS = 60.0
# What the ratios may be at most.
MOST_OF_LOCAL, MOST_OF_SSH = 1.2, 0.7


def main() -> None:
    from tests.lab.hosts import lab

    derper = os.environ["DERPMGMT_TEST_DERPER"]
    with (
        tempfile.TemporaryDirectory(prefix="derpbench-") as folder,
        lab(hosts=3, state=Path(folder, "lab")) as hosts,
    ):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        os.environ.update(
            DERPMGMT_VAR_DIR=f"{folder}/var",
            DERPMGMT_PORT=str(port),
            DERPMGMT_FULL_LOAD="1000",  # what else this machine does must not keep relays away from its hosts
            DJANGO_SETTINGS_MODULE="derpmgmt.settings",
        )
        with Path(folder, "panel.log").open("w") as log:
            panel = subprocess.Popen([sys.executable, "manage.py", "up"], stdout=log, stderr=log)
        try:
            _wait_for(Path(folder, "var", "running.json"), panel, Path(log.name))
            measure(hosts.hosts, derper)
        finally:
            panel.terminate()
            panel.wait(timeout=60)


def _wait_for(
    record: Path, panel: "subprocess.Popen[bytes]", log: Path, seconds: float = WAIT_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and panel.poll() is None:
        if record.exists():
            return
        time.sleep(0.1)
    raise SystemExit(f"the panel did not start:\n{log.read_text()[-3000:]}")


def _manage(*arguments: str) -> None:
    subprocess.run([sys.executable, "manage.py", *arguments, "--json"], check=True, stdout=subprocess.DEVNULL)


def measure(hosts: list[Any], derper: str) -> None:
    """Set the panel up as an operator does, then take the times, the three ways in turn."""
    import django

    django.setup()
    from django.utils import timezone

    from accounts.services import create_user
    from containers.services.images import current_image
    from fleet.ssh import HostKey
    from serials.numbers.models import SerialNumber
    from serials.numbers.services import create_batch

    _manage("image_build", "--derper", derper)
    for host, region in zip(hosts, ("sh", "gz", "bj"), strict=True):
        fingerprint = HostKey.from_line(host.host_key).fingerprint
        where = ["--name", host.name, "--region", region, "--ssh-port", str(host.ssh_port)]
        _manage(
            "server_add",
            host.address,
            *where,
            *("--user", host.user, "--key", host.private_key_path, "--host-key", fingerprint),
            *("--docker-socket", host.docker_socket),
        )
    batch = create_batch(name="bench", days=30, count=ROUNDS + 1, by=None, is_paid=True)
    codes = [serial.code for serial in SerialNumber.objects.filter(batch=batch)]
    image = current_image().tag
    everything: list[list[float]] = [[] for _ in range(5)]
    panel, local, ssh, bare_local, bare_ssh = everything
    traces: list[dict[str, float]] = []
    for number, code in enumerate(codes):
        user = create_user(email=f"c{number}@example.com", username=f"c{number}")
        began = timezone.now()
        ours = _time(partial(_redeem, user, code))
        times = (
            ours,
            _run_all(hosts, partial(_local, OPTIONS), image),
            _run_all(hosts, partial(_ssh, OPTIONS), image),
            _run_all(hosts, partial(_local, BARE), image),
            _run_all(hosts, partial(_ssh, BARE), image),
        )
        if number:  # the first round warms everybody up
            for series, value in zip(everything, times, strict=True):
                series.append(value)
            traces.append(_trace(user, began, ours))
    ours, plain, remote = (statistics.median(series) for series in (panel, local, ssh))
    print(f"redeem → three proven relays:              {ours:6.2f} s   {_spread(panel)}")
    print(f"three local docker run -d, one by one:     {plain:6.2f} s   {_spread(local)}")
    print(f"three ssh host docker run -d, one by one:  {remote:6.2f} s   {_spread(ssh)}")
    print(
        f"local, without ports and limits:           {statistics.median(bare_local):6.2f} s   {_spread(bare_local)}"
    )
    print(
        f"ssh, without ports and limits:             {statistics.median(bare_ssh):6.2f} s   {_spread(bare_ssh)}"
    )
    print("where the time goes, by the slowest of the three relays; medians in milliseconds")
    for step in dict.fromkeys(step for trace in traces for step in trace):
        series = [trace.get(step, 0.0) * 1e3 for trace in traces]
        print(f"  {step:12} {statistics.median(series):7.0f}   ({min(series):.0f} … {max(series):.0f})")
    print(f"ratio to local docker run:  {ours / plain:.2f}  (at most {MOST_OF_LOCAL})")
    print(f"ratio to ssh docker run:    {ours / remote:.2f}  (at most {MOST_OF_SSH})")
    if ours > MOST_OF_LOCAL * plain or ours > MOST_OF_SSH * remote:
        sys.exit("a customer waits too long for three relays")


def _spread(series: list[float]) -> str:
    return f"({min(series):.2f} … {max(series):.2f}, {len(series)} rounds)"


def _time(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _trace(user: Any, began: datetime, whole: float) -> dict[str, float]:
    """The seconds of each part of `whole`, from `began` on, on the way of the relay that was proven last."""
    from containers.models import Deployment

    last = Deployment.objects.filter(relay__rental__user=user).order_by("finished_at").last()
    assert last is not None
    assert last.started_at is not None
    assert last.finished_at is not None
    begins = {"plan, queue": (last.started_at - began).total_seconds()}
    steps = {step.name: step.seconds for step in last.step_times(last.finished_at)}
    seen = {"seen": whole - (last.finished_at - began).total_seconds()}
    return begins | steps | seen


def _redeem(user: Any, code: str) -> None:
    from django.db import connection

    from containers.models import Relay
    from serials.numbers.services import redeem_serial

    rental = redeem_serial(code=code, user=user, by=user).rental
    running = Relay.objects.filter(rental=rental, status=Relay.Status.RUNNING).values("pk").query
    sql, values = running.sql_with_params()  # made once: who looks on must take nothing from those who work
    deadline = time.monotonic() + WAIT_SECONDS
    with connection.cursor() as cursor:
        while True:
            cursor.execute(sql, values)
            if len(cursor.fetchall()) == 3:
                return
            if time.monotonic() > deadline:
                raise SystemExit("three relays did not come up in a minute")
            time.sleep(0.01)


# What the panel's relays do less their certificates: derper in its development mode, which needs no files.
DERPER = ["-dev", "-a=:8443", "-c=/relay/derper.json"]
# What makes a relay of the panel's (`containers.spec`), in the words of `docker run`; Docker chooses the ports.
OPTIONS = [
    *(
        "--network",
        "derpmgmt",
        "-p",
        "8443",
        "-p",
        "3478/udp",
        "-v",
        "/relay",
        "--restart",
        "always",
    ),
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "128m", "--memory-swap", "128m", "--pids-limit", "256"),
    *("--log-opt", "max-size=1m", "--log-opt", "max-file=2"),
]
BARE = ["-v", "/relay"]


def _local(options: list[str], host: Any, image: str) -> list[str]:
    run = ["docker", "-H", f"unix://{host.docker_socket}", "run", "-d", "--user", "0"]
    return [*run, *options, image, *DERPER]


def _ssh(options: list[str], host: Any, image: str) -> list[str]:
    settings = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]
    target = ["-i", host.private_key_path, "-p", str(host.ssh_port), f"{host.user}@{host.address}"]
    return ["ssh", *settings, *target, " ".join(_local(options, host, image))]


def _run_all(hosts: list[Any], command: Callable[[Any, str], list[str]], image: str) -> float:
    started: list[tuple[Any, str]] = []

    def run() -> None:
        for host in hosts:
            answer = subprocess.run(command(host, image), check=False, capture_output=True, text=True)
            if answer.returncode:
                raise SystemExit(f"{host.name}: {answer.stderr}")
            started.append((host, answer.stdout.strip()))

    taken = _time(run)
    for host, container in started:
        subprocess.run(
            ["docker", "-H", f"unix://{host.docker_socket}", "rm", "-f", "-v", container],
            check=True,
            capture_output=True,
        )
    return taken


if __name__ == "__main__":
    main()
