"""What `tests/lab/headscale.py` is made of: Headscale and cron, the addresses that are fetched from, a panel with a customer."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.lab.clients import start
from tests.panel.running import Folder, wait_for

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "derpmgmt", "headscale")
MODULE = "github.com/juanfont/headscale"
CONFIG = Path("/etc/headscale/config.yaml")
PORT, DEBUG_PORT = 8080, 9090
ADDRESS = f"http://127.0.0.1:{PORT}"
# What the panel says while it cannot read the map.
FAILURE = (503, b"The map cannot be read at the moment. Keep the one you have.\n")


def headscale(version: str) -> Path:
    """The program, built from its Go module the first time: in a copy, since `go install` would ask for all versions there are."""
    program = CACHE / version / "headscale"
    if not program.exists():
        print(f"building Headscale {version} from its Go module, this takes minutes", flush=True)
        found = _run(["go", "mod", "download", "-json", f"{MODULE}@v{version}"])
        with tempfile.TemporaryDirectory(prefix="headscale-") as folder:
            copy = shutil.copytree(json.loads(found)["Dir"], f"{folder}/headscale")
            _run(["chmod", "-R", "u+w", copy])
            program.parent.mkdir(parents=True, exist_ok=True)
            part = program.with_suffix(".part")
            command = ["go", "build", "-ldflags=-s -w", "-o", str(part), "./cmd/headscale"]
            _run(command, cwd=copy, env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"})
            part.replace(program)
    return program


def cron() -> Path:
    """The folder in which Debian's package of cron is unpacked; it is not installed."""
    folder = CACHE / "cron"
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix="cron-", dir="/tmp") as temporary:
            _run(["apt-get", "-qq", "download", "cron"], cwd=temporary)
            (package,) = Path(temporary).glob("cron_*.deb")
            _run(["dpkg", "-x", str(package), f"{temporary}/cron"])
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(f"{temporary}/cron", folder)
    return folder


def _run(command: list[str], **settings: Any) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **settings)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def furnish(folder: Path, stack: ExitStack) -> None:
    """Makes the namespaces fit: a way out in name only, an /etc that is a copy, and cron, which reads /etc/cron.d there."""
    upper, work = folder / "etc", folder / "work"
    upper.mkdir()
    work.mkdir()
    layers = f"lowerdir=/etc,upperdir={upper},workdir={work}"
    for command in (
        "ip link set lo up",
        "ip link add out type veth peer name away",
        "ip addr add 10.99.0.1/24 dev out",
        "ip link set out up",
        "ip link set away up",
        "ip route add default via 10.99.0.254",
        f"mount -t overlay overlay -o {layers} /etc",
        "mount -t tmpfs tmpfs /run",
        "mount -t tmpfs tmpfs /var/spool",
        "mkdir -p /var/spool/cron/crontabs /etc/cron.d /etc/headscale",
        f"cp {cron()}/etc/pam.d/cron /etc/pam.d/cron",
    ):
        _run(command.split())
    for file in Path("/etc/cron.d").iterdir():
        file.unlink()
    start(stack, [str(cron() / "usr/sbin/cron"), "-f", "-L", "15"], folder / "cron.log")


def make_certificate(folder: Path, name: str, subject: str) -> tuple[Path, Path]:
    """A self-signed certificate for a subject such as `IP:127.0.0.1`, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    _run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}", "-out", str(certificate), "-keyout", str(key),
        ]
    )  # fmt: skip
    return certificate, key


def _get(port: int, path: str, **headers: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    body = connection.getresponse().read()
    connection.close()
    return body


class Site:
    """An address on 127.0.0.1 that answers with what `answer` gives for a path; with `fails`, as a panel does that fails."""

    def __init__(
        self,
        stack: ExitStack,
        port: int,
        answer: Callable[[str], tuple[int, bytes]],
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.fails = False
        self._port, self._answer, self._certificate = port, answer, certificate
        self._server: ThreadingHTTPServer | None = None
        self.open()
        stack.callback(self.close)

    def open(self) -> None:
        """Answer from now on."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = FAILURE if site.fails else site._answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Customer:
    """A customer of a demo that runs, with three proven relays and a live URL."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        record = json.loads((folder.path / "demo.json").read_text())
        self._python = (
            "import json\n"
            "from acl.maps import services\n"
            "from acl.maps.models import MapRegion\n"
            "from accounts.models import User\n"
            "from containers.models import Relay\n"
            "from serials.numbers import services as serials\n"
            f"user = User.objects.get(email={record['logins']['customer']['email']!r})\n"
        )
        self.python(f"serials.redeem_serial(code={record['serials'][0]!r}, user=user, by=user)")
        self.wait_for_relays()
        self._path, self._session = self.python(
            "from django.test import Client\n"
            "client = Client()\n"
            "client.force_login(user)\n"
            "url = services.create_live_url(rental=user.rental, by=user)\n"
            "print(services.live_address(url).partition('/live/')[2], client.cookies['sessionid'].value)"
        ).split()

    def python(self, code: str) -> str:
        """What `code` prints in the panel's Django; `user` is the customer."""
        environment = {"DERPMGMT_VAR_DIR": str(self._folder.path / "demo")}
        done = self._folder.manage("shell", "--verbosity", "0", "-c", self._python + code, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for_relays(self) -> None:
        """Returns when three relays have been proven."""
        count = "print(Relay.objects.filter(rental__user=user, status='running').count())"
        wait_for(lambda: self.python(count) == "3", "three relays run")

    def get(self, path: str) -> tuple[int, bytes]:
        """The panel's answer, to the customer's browser."""
        connection = http.client.HTTPConnection("127.0.0.1", self._folder.port, timeout=30)
        public = self._folder.variables["DERPMGMT_PUBLIC_URL"].partition("//")[2]
        connection.request(
            "GET", path, headers={"Host": public, "Cookie": f"sessionid={self._session}; django_language=en"}
        )
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def page(self) -> dict[str, str]:
        """What stands in the boxes of the live page, by their ids."""
        status, body = self.get("/map/live/")
        assert status == 200, status
        boxes = body.decode().split("<pre ")[1:]
        texts = (box.partition(">") for box in boxes if 'id="' in box.partition(">")[0])
        return {
            head.partition('id="')[2].partition('"')[0]: unescape(rest.partition("</pre>")[0])
            for head, _, rest in texts
        }

    def live_map(self) -> dict[str, Any]:
        """The map as the live URL tells it: regions by their ids."""
        status, body = self.get(f"/live/{self._path}")
        assert status == 200, (status, body)
        regions: dict[str, Any] = json.loads(body)["Regions"]
        return regions

    def change_region(self) -> None:
        """Give the first of the relays another region ID."""
        self.python(
            "row = MapRegion.objects.get(rental=user.rental, slot=1)\n"
            "number = row.region_id + (50 if row.region_id < 950 else -50)\n"
            "services.change_region_id(rental=user.rental, map_region=row, region_id=number, by=user)"
        )


class Headscale:
    """A Headscale of a version, on 127.0.0.1; its state lasts from one start to the next."""

    def __init__(self, version: str, folder: Path, authority: Path, stack: ExitStack) -> None:
        self._program = str(headscale(version))
        self._has_old_pages = version < "0.27"
        self._folder, self._stack = folder, stack
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._environment = os.environ | {"SSL_CERT_FILE": str(authority)}
        folder.mkdir()

    def start(self, derp: str) -> bool:
        """Whether it comes up with these lines of config.yaml beside what every Headscale has."""
        self.stop()
        self._starts += 1
        CONFIG.write_text(
            f"server_url: {ADDRESS}\nlisten_addr: 127.0.0.1:{PORT}\nmetrics_listen_addr: 127.0.0.1:{DEBUG_PORT}\n"
            f"grpc_listen_addr: 127.0.0.1:50443\nunix_socket: {self._folder}/socket\n"
            f"noise:\n  private_key_path: {self._folder}/noise.key\n"
            f"database:\n  type: sqlite\n  sqlite:\n    path: {self._folder}/db.sqlite\n"
            "prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n"
            "dns:\n  magic_dns: false\n  override_local_dns: false\n  base_domain: tailnet.internal\n"
            f"disable_check_updates: true\nlogtail:\n  enabled: false\nlog:\n  level: info\n{derp}"
        )
        self._process = start(self._stack, [self._program, "serve"], self._log, env=self._environment)
        wait_for(lambda: self.is_up() or self._process.poll() is not None, "Headscale starts or gives up")
        return self._process.poll() is None

    @property
    def _log(self) -> Path:
        return self._folder / f"log-{self._starts}"

    def last_words(self) -> str:
        """The last line of its log."""
        return self._log.read_text().strip().rpartition("\n")[2]

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return _get(PORT, "/health") is not None
        except OSError:
            return False

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def regions(self) -> dict[int, str]:
        """The regions of its map and their names, as its debug pages tell."""
        path, key = ("derpmap", "Regions") if self._has_old_pages else ("derp", "regions")
        regions = json.loads(_get(DEBUG_PORT, f"/debug/{path}", Accept="application/json")).get(key) or {}
        name = "RegionName" if self._has_old_pages else "region_name"
        return {int(number): region[name] for number, region in regions.items()}

    @property
    def updates(self) -> int:
        """How often it has set out to ask its sources again; while it repeats one that failed, it sets out no more."""
        return self._log.read_text().count("Fetching DERPMap updates")

    def wait_for_update(self, after: int) -> None:
        """Returns when it has set out again after so many times, and has had the time to use what it heard."""
        wait_for(lambda: self.updates > after, "Headscale looks again")
        time.sleep(5)

    def auth_key(self) -> str:
        """What a device signs in with."""
        created = self._ask("users", "create", f"user{self._starts}")
        key: str = self._ask("preauthkeys", "create", "--user", str(created["id"]))["key"]
        return key

    def _ask(self, *words: str) -> Any:
        command = [self._program, *words, "--output", "json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
