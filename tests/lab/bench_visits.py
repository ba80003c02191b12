"""`make bench`: what one round of visits costs over 200 servers of the sandbox with ten relays each: seconds, processor time, writes.

Every relay carries something between two rounds. The processor time is that of the panel's process and its children; the servers run in
processes of their own. Beside it, in turns in the same run: the same facts by plain `ssh` from a pool of 16 processes, which connects for each
question, and with `--against PATH` another checkout, with its own `.venv`, on servers and a MariaDB of its own kind.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

ROOT = Path(__file__).resolve().parents[2]
SERVERS, RELAYS = 200, 10
# The servers run in so many processes, since each has its own subnet of 250 addresses and its files.
SANDBOXES = 4
WARM, ROUNDS = 3, 6
# Visits come every fifteen seconds.
INTERVAL = 15.0
SSH_PROCESSES = 16
# As visits look at the rest in one of so many (`containers.looks`).
REST_EVERY = 4
START_SECONDS = 120.0

MOST_SECONDS = 10.0
# Of the processor time of the other checkout, where this was set: the commit before the fleet's facts were sampled; and of plain ssh's.
MOST_OF_OTHER, MOST_OF_SSH = 0.5, 0.3


@dataclass(frozen=True)
class Round:
    """What one round took, in seconds, and how many statements that write and rows that they wrote."""

    seconds: float
    cpu_seconds: float
    statements: int = 0
    rows: int = 0


class Panel:
    """A checkout's visits on servers and a database of their own."""

    def __init__(self, tree: Path, folder: Path, subnet: int, database_url: str, redis_url: str) -> None:
        self.tree, self._folder, self._subnet = tree, folder, subnet
        own = tree / ".venv" / "bin" / "python"
        self._python = str(own) if own.exists() else sys.executable
        others = {name: value for name, value in os.environ.items() if not name.startswith("DERPMGMT_")}
        self._environment = others | {
            "PYTHONPATH": str(tree),
            "DERPMGMT_VAR_DIR": str(folder / "var"),
            "DERPMGMT_DATABASE_URL": database_url,
            "DERPMGMT_REDIS_URL": redis_url,
            "DERPMGMT_LOG_LEVEL": "ERROR",
        }
        self.hosts: list[dict[str, Any]] = []
        self._servers: list[subprocess.Popen[str]] = []
        self._visiting: subprocess.Popen[str] | None = None

    def begin(self, role: str, *given: str) -> "subprocess.Popen[str]":
        """Play a role of this file by the checkout's own code."""
        return subprocess.Popen(
            [self._python, "-P", __file__, role, *given], cwd=self.tree, env=self._environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Its servers run, and its rows and their containers are being made."""
        try:
            for number in range(SANDBOXES):
                folder = self._folder / f"servers-{number}"
                process = self.begin("sandbox", str(folder), f"127.{self._subnet}.{number}")
                self._servers.append(process)
            for process in self._servers:
                self.hosts += json.loads(self._said(process))
            hosts = self._folder / "hosts.json"
            hosts.write_text(json.dumps(self.hosts))
            self._filling = self.begin("fill", str(hosts))
            yield
        finally:
            for process in [*self._servers, *([self._visiting] if self._visiting else [])]:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def await_filled(self) -> None:
        """All are made, and a process waits to visit them."""
        self._said(self._filling)
        self._filling.wait()
        self._visiting = self.begin("visit")
        self._said(self._visiting)

    def visit(self) -> Round:
        """One round."""
        assert self._visiting is not None
        assert self._visiting.stdin is not None
        self._visiting.stdin.write("visit\n")
        self._visiting.stdin.flush()
        return Round(**json.loads(self._said(self._visiting)))

    def rest(self) -> None:
        """From now on nothing flows through the relays."""
        for process in self._servers:
            process.send_signal(signal.SIGUSR1)

    def _said(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{self.tree} failed: see above")
        return line


def main() -> None:
    from tests.lab.services import mariadb, redis

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="another checkout to measure beside this one"
    )
    against = parser.parse_args().against
    with ExitStack() as stack:
        panels = []
        for at, tree in enumerate([ROOT, *([against.resolve()] if against else [])]):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="derpvisits-", dir="/tmp"))
            database_url = stack.enter_context(mariadb(is_local=True))
            panels.append(Panel(tree, Path(folder), 90 + at, database_url, stack.enter_context(redis())))
        for panel in panels:
            stack.enter_context(panel.standing())
        for panel in panels:
            panel.await_filled()
        plain = PlainSsh(panels[0].hosts)
        ways: list[Callable[[], Round]] = [panels[0].visit, plain.ask, *(panel.visit for panel in panels[1:])]
        found: list[list[Round]] = [[] for _way in ways]
        for turn in range(WARM + ROUNDS):
            begun = time.monotonic()
            for way, rounds in zip(ways, found, strict=True):
                taken = way()
                if turn >= WARM:  # connected, and nothing is new from then on
                    rounds.append(taken)
            time.sleep(max(INTERVAL - (time.monotonic() - begun), 0))
        panels[0].rest()
        panels[0].visit()
        quiet = panels[0].visit()
    report(found, quiet)


class PlainSsh:
    """The same facts without a panel: for each server two commands by the `ssh` program, from a pool of processes.

    One is the script of a visit, the other `docker system dial-stdio`, by which all questions to the Docker Engine go at once: the panel's
    containers, one of them whole, each in its turn, and in one of four rounds, as visits do it, the volumes and who the Engine is. All answers are read:
    the script's lines as words, the Engine's as JSON. The sandbox's servers answer just these two commands; where a shell runs anything,
    one command would do for both, and half of the signing in be saved.
    """

    def __init__(self, hosts: list[dict[str, Any]]) -> None:
        from fleet.facts_script import FACTS_SCRIPT

        script = _SHELL + shlex.quote(FACTS_SCRIPT)
        common = [
            *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
            *("-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"),
        ]
        self._commands = []
        for host in hosts:
            command = [*common, "-i", host["private_key_path"], "-p", str(host["ssh_port"])]
            self._commands.append([*command, f"{host['user']}@{host['address']}"])
        self._script = script
        # What is looked at whole, by server, as the round before found it.
        self._ids: list[list[str]] = [[] for _host in hosts]
        self._rounds = 0

    def ask(self) -> Round:
        """One round."""
        asked = [
            (command, self._script, _questions(ids, self._rounds, (self._rounds + at) % REST_EVERY == 0))
            for at, (command, ids) in enumerate(zip(self._commands, self._ids, strict=True))
        ]
        self._rounds += 1
        begun = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with multiprocessing.get_context("fork").Pool(SSH_PROCESSES) as pool:
            answers = pool.starmap(_ask, asked, chunksize=1)
            pool.close()
            pool.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if wrong := [words for words, _ids in answers if words]:
            sys.exit(f"ssh: {wrong[0]}")
        self._ids = [ids for _words, ids in answers]
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Round(time.monotonic() - begun, spent)


# The sandbox runs what is wrapped in a shell.
_SHELL = "/bin/sh -c 'eval \"$1\"' sh "


def _questions(ids: list[str], turn: int, is_rest_due: bool) -> list[str]:
    """The paths that the Engine is asked for in one round, the list of containers first."""
    paths = [f"/containers/json?all=1&filters={quote_plus(json.dumps({'label': ['derpmgmt.panel']}))}"]
    if ids:
        paths.append(f"/containers/{ids[turn % len(ids)]}/json")
    if is_rest_due:
        paths += ["/volumes", "/info"]
    return paths


def _ask(command: list[str], script: str, paths: list[str]) -> tuple[str, list[str]]:
    """What is wrong, empty for answers as they should be; the ids of the containers."""
    said = subprocess.run([*command, script], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    told = [line.split() for line in said.stdout.decode(errors="replace").splitlines()]
    if sum(words[:1] == ["container"] for words in told) != RELAYS:
        return (said.stderr or said.stdout).decode(errors="replace")[-500:], []
    requests = [
        f"GET /v1.41{path} HTTP/1.1\r\nHost: docker\r\n{'Connection: close' if path == paths[-1] else 'Accept: */*'}\r\n\r\n"
        for path in paths
    ]
    listed = subprocess.run(
        [*command, _SHELL + "'exec docker system dial-stdio'"],
        capture_output=True,
        check=False,
        input="".join(requests).encode(),
    )
    try:
        containers, *_others = _read_answers(listed.stdout, len(paths))
        if len(containers) == RELAYS:
            return "", [container["Id"] for container in containers]
    except ValueError:
        pass
    return (listed.stderr or listed.stdout).decode(errors="replace")[-500:], []


def _read_answers(said: bytes, number: int) -> list[Any]:
    """The JSON of so many answers, which tell their lengths. Raises ValueError."""
    answers = []
    for _answer in range(number):
        head, _end, said = said.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").lower().split("\r\n")
        lengths = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
        if not status.startswith("http/1.1 200") or not lengths:
            raise ValueError(f"no answer: {status}")
        answers.append(json.loads(said[: lengths[0]]))
        said = said[lengths[0] :]
    return answers


def report(found: list[list[Round]], quiet: Round) -> None:
    """Print all figures; raises `SystemExit` where one misses its target."""

    def median(rounds: list[Round], name: str) -> float:
        return statistics.median(getattr(one, name) for one in rounds)

    print(f"one round of visits to {SERVERS} servers with {RELAYS} relays each; the median of {ROUNDS}")
    print(f"{'':24} {'seconds':>10} {'CPU s':>10} {'ms a server':>12} {'statements':>11} {'rows':>8}")
    names = ("this", "plain ssh, 16 processes", "the other checkout")
    for name, rounds in [*zip(names, found, strict=False), ("this, when nothing flows", [quiet])]:
        cpu = median(rounds, "cpu_seconds")
        print(
            f"{name:24} {median(rounds, 'seconds'):10.2f} {cpu:10.2f} {cpu * 1000 / SERVERS:12.1f} "
            f"{median(rounds, 'statements'):11.0f} {median(rounds, 'rows'):8.0f}"
        )
    cpus = [median(rounds, "cpu_seconds") for rounds in found]
    targets = [
        ("seconds", median(found[0], "seconds"), MOST_SECONDS),
        ("of the processor time of plain ssh", cpus[0] / cpus[1], MOST_OF_SSH),
        *([("of the other's processor time", cpus[0] / cpus[2], MOST_OF_OTHER)] if len(cpus) > 2 else []),
    ]
    missed = [name for name, value, most in targets if value > most]
    for name, value, most in targets:
        print(f"{value:.2f} {name} (at most {most:g}){'  MISSED' if value > most else ''}")
    if missed:
        sys.exit(f"above the target: {', '.join(missed)}")


# The roles, played by a checkout's own code


def sandbox(folder: str, subnet: str) -> None:
    """Servers, until SIGTERM; something flows through each container between two looks at it, until SIGUSR1."""
    from derpmgmt.sandbox.fleet import Sandbox
    from derpmgmt.sandbox.lifecycle import Lifecycle

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    flows = [True]
    if read := getattr(Lifecycle, "standing", None):

        def standing(self: Any, up_since: float) -> Any:
            if flows[0]:
                for container in list(self._interfaces):
                    self._count(container, received=150_000, sent=1_200_000)
            return read(self, up_since)

        Lifecycle.standing = standing  # type: ignore[method-assign]
    with Sandbox(Path(folder), SERVERS // SANDBOXES, subnet=subnet) as running:
        print(json.dumps([host.as_json() for host in running.hosts]), flush=True)
        while signal.sigwait({signal.SIGTERM, signal.SIGUSR1}) == signal.SIGUSR1:
            flows[0] = False


def fill(path: str) -> None:
    """Make the rows and their containers, so that a visit finds nothing to do."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from containers.deploy import make_so
    from containers.models import Relay
    from containers.services import images, relays
    from fleet.contact import contact
    from fleet.models import Server
    from tests.factories import RentalFactory, ServerFactory, SshCredentialFactory

    call_command("migrate", verbosity=0)
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    archive = images.install_image(derper=None)
    rentals = RentalFactory.create_batch(-(-SERVERS * RELAYS // 3))
    now = timezone.now()
    places = iter((rental, slot) for slot in (1, 2, 3) for rental in rentals)

    def stand(server: Server) -> None:
        server = Server.objects.select_related("credential").get(pk=server.pk)
        with contact(server) as reached:
            for relay in Relay.objects.filter(server=server).select_related("server__gate"):
                spec = relays.spec_of(relay, archive.tag)
                make_so(reached.engine, spec, archive, lambda _step: None, is_proven_next=True)
        connection.close()

    made = []
    for at, host in enumerate(json.loads(Path(path).read_text())):
        credential = SshCredentialFactory(
            name=f"key {at // (SERVERS // SANDBOXES)}", username=host["user"],
            private_key=Path(host["private_key_path"]).read_text(),
        )  # fmt: skip
        server = ServerFactory(
            name=f"s{at}", address=host["address"], ssh_port=host["ssh_port"], credential=credential,
            host_key=host["host_key"], docker_socket=host["docker_socket"], status=Server.Status.HEALTHY,
        )  # fmt: skip
        made.append(server)
        for place in range(RELAYS):
            rental, slot = next(places)
            relay = relays.new_relay(server=server, derp_port=20500 + place, stun_port=20500 + place, now=now)
            relay.rental, relay.slot, relay.status, relay.image = (
                rental, slot, Relay.Status.RUNNING, archive.tag,
            )  # fmt: skip
            relay.save()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stand, made))
    print("made", flush=True)


def visit() -> None:
    """Visit all servers for each line that comes, in threads as the panel's process for it has, and say what it took."""
    from django.conf import settings
    from django.db import connection

    from containers import jobs
    from containers.models import Relay
    from derpmgmt.lib.queue import serving
    from fleet.models import Server

    def written() -> tuple[int, int]:
        with connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS")
            said = dict(cursor.fetchall())
        statements = ("Com_insert", "Com_update", "Com_delete")
        rows = ("Handler_write", "Handler_update", "Handler_delete")
        return sum(int(said[name]) for name in statements), sum(int(said[name]) for name in rows)

    def shard(number: int) -> None:
        serving.set(f"visit-{number}")
        jobs.visit_servers(number)
        connection.close()

    print("ready", flush=True)
    for _line in sys.stdin:
        statements, rows = written()
        begun, cpu = time.monotonic(), time.process_time()
        threads = [threading.Thread(target=shard, args=(number,)) for number in range(settings.SHARDS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken, spent = time.monotonic() - begun, time.process_time() - cpu
        after = written()
        if Server.objects.exclude(last_visit_at__gte=_ago(taken + 1)).exists():
            sys.exit("a server was not reached")
        if Relay.objects.exclude(status=Relay.Status.RUNNING).exists():
            sys.exit("a relay was found to be wrong")
        told = {"statements": after[0] - statements, "rows": after[1] - rows}
        print(json.dumps({"seconds": taken, "cpu_seconds": spent, **told}), flush=True)


def _ago(seconds: float) -> Any:
    from datetime import timedelta

    from django.utils import timezone

    return timezone.now() - timedelta(seconds=seconds)


def _play(role: str, *given: str) -> None:
    from tests.lab import serving

    if role != "sandbox":
        serving.setup()
    roles: dict[str, Callable[..., None]] = {"sandbox": sandbox, "fill": fill, "visit": visit}
    roles[role](*given)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in {"sandbox", "fill", "visit"}:
        _play(*sys.argv[1:])
    else:
        main()
