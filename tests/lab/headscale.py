"""`make test-headscale`: real Headscales follow a customer's relays as the live page tells them to, and a table of what was seen.

A demo runs beside each Headscale, its customer has three relays and a live URL. What the page shows is used as it stands: cron runs
its five lines, Headscale reads its lines of config.yaml. Everything is in a network and a mount namespace of its own, in which /etc
is a copy, and Tailscale's own address of a map leads to a stand-in. Needs root, Go and Debian. Ends with 1 when something
that docs/running.md or the page says is not so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import yaml

from acl.maps import derpmap
from tests.lab.clients import Client
from tests.lab.headscale_parts import (
    ADDRESS,
    Customer,
    Headscale,
    Site,
    cron,
    furnish,
    headscale,
    make_certificate,
)
from tests.panel.running import Folder, wait_for

VERSIONS = ("0.26.1", "0.27.1", "0.28.0")
PUBLIC_PORT, TLS_PORT = 8090, 8443
INSIDE = "--inside"
FILE, CRON = Path(derpmap.HEADSCALE_PATH), Path(derpmap.CRON_PATH)
# What Tailscale's own address answers here.
DEFAULT = b'{"Regions": {"1": {"RegionID": 1, "RegionCode": "t", "RegionName": "Tailscale", "Nodes": []}}}'
DEFAULT_ID = 1


class World:
    """What the checks have: a Headscale, the addresses it asks, a customer with their page, and the table."""

    def __init__(
        self, version: str, folder: Path, customer: Customer, default: Site, panel: Site, stack: ExitStack
    ) -> None:
        self.customer, self.default, self.panel = customer, default, panel
        self.version, self.folder, self.stack = version, folder, stack
        self.is_old = version < derpmap.HEADSCALE_KEEPS_SINCE
        self.headscale = Headscale(version, folder / version, folder / "controlplane.crt", stack)
        self.boxes = customer.page()
        self.rows: dict[str, str] = {}
        self.wrong: list[str] = []

    def see(self, what: str, seen: str, before: str, since: str = "") -> None:
        """Put into the table what was seen; `before` 0.27, and `since`, are what the page and docs/running.md say."""
        expected = before if self.is_old or not since else since
        is_wrong = seen != expected
        self.rows[what] = f"**{seen}** (should be: {expected})" if is_wrong else seen
        if is_wrong:
            self.wrong.append(what)
        print(f"{time.strftime('%H:%M:%S')} {self.version} {what}: {self.rows[what]}", flush=True)

    def map(self) -> str:
        """In words, whose regions Headscale has; the customer's may be those from before a change."""
        regions = set(self.headscale.regions())
        ours, now = regions - {DEFAULT_ID}, {int(number) for number in self.customer.live_map()}
        words = ["ours" if ours == now else "ours as before"] if ours else []
        return " and ".join(words + ["Tailscale's"] * (DEFAULT_ID in regions)) or "none"

    def start(self, derp: str) -> str:
        """In words, how a start with these lines ends."""
        if self.headscale.start(derp):
            return f"starts: {self.map()}"
        print(f"{self.version} says: {self.headscale.last_words()}", flush=True)
        return "does not start"

    def lines(self, box: str, *, is_fast: bool = True, **changed: object) -> str:
        """Lines for config.yaml from a box of the page; Headscale looks every 2 s, so that not everything takes minutes."""
        text = self.boxes[box]
        derp = yaml.safe_load(text)["derp"] | changed
        return yaml.safe_dump({"derp": derp | {"update_frequency": "2s"}}) if is_fast else text

    def fetch_file(self, *, options: str = "", address: str = "") -> None:
        """What cron does each minute, at once; without looking at whether it went well."""
        settings = dict(line.split("=", 1) for line in self.boxes["live-timer"].splitlines()[1:4])
        command = self.boxes["live-timer"].splitlines()[4].partition(" root ")[2]
        url = (
            settings["URL"].replace(f"http://127.0.0.1:{PUBLIC_PORT}", address)
            if address
            else settings["URL"]
        )
        command = command.replace("curl ", f"curl {options} ")
        subprocess.run(
            [settings["SHELL"], "-c", command],
            env={"PATH": "/usr/bin:/bin", "MAP": settings["MAP"], "URL": url},
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip


def wait_long(condition: Callable[[], object], what: str) -> float:
    """Seconds until the condition holds; cron and a Headscale with the page's own lines take up to a minute and a half."""
    began = time.monotonic()
    wait_for(condition, what, seconds=300, pause=1)  # a live URL may not be asked more often
    return time.monotonic() - began


def file_way(world: World) -> None:
    """By a file that cron fetches, named in `derp.paths`."""
    hs, customer = world.headscale, world.customer
    told = world.lines("live-file-lines", is_fast=False)
    CRON.unlink(missing_ok=True)
    FILE.unlink(missing_ok=True)
    world.see("file: not there yet, start", world.start(told), "starts: Tailscale's", "does not start")
    CRON.write_text(world.boxes["live-timer"])
    took = wait_long(FILE.exists, "cron has fetched the file")
    world.see("file: there within a minute", "yes" if took < 65 else f"{took:.0f} s", "yes")
    world.see("file: start", world.start(told), "starts: ours and Tailscale's")
    client = Client([], f"file-{world.version}", ADDRESS, world.folder, world.stack, hs.auth_key())
    world.see("file: a client has every field of the JSON", told_as_json(world, client), "yes")
    customer.change_region()
    took = wait_long(lambda: world.map() == "ours and Tailscale's", "the changed map is there")
    print(f"a changed map came after {took:.0f} s", flush=True)
    world.see("file: changed, no restart: a client has it", told_as_json(world, client), "yes")
    CRON.unlink()
    before = FILE.read_bytes()
    for what in ("answers 503", "is away"):
        world.panel.fails = what == "answers 503"
        if not world.panel.fails:
            world.panel.close()
        world.fetch_file()
        world.see(f"file: the panel {what}", "stays" if FILE.read_bytes() == before else "changes", "stays")
    world.see("file: the panel is away, start", world.start(told), "starts: ours and Tailscale's")
    world.panel.open()
    fast, alone = world.lines("live-file-lines"), world.lines("live-file-lines", urls=[])
    hs.start(fast)
    before_failing, world.default.fails = hs.updates, True
    customer.change_region()
    world.fetch_file()
    hs.wait_for_update(before_failing)
    world.see(
        "file: changed while Tailscale's address fails", world.map(), "ours", "ours as before and Tailscale's"
    )
    world.default.fails = False
    wait_long(lambda: world.map() == "ours and Tailscale's", "the map is complete again")
    world.default.fails = True
    world.see(
        "file: start while Tailscale's address fails", world.start(fast), "starts: ours", "does not start"
    )
    world.see("file: start with the file alone", world.start(alone), "starts: ours")
    world.default.fails = False


def told_as_json(world: World, client: Client) -> str:
    """Whether a client has been told exactly the regions that the live URL tells, field by field."""

    def told() -> dict[str, object]:
        regions = (client.derp_map() or {}).get("Regions") or {}
        return {number: region for number, region in regions.items() if number != str(DEFAULT_ID)}

    wanted = world.customer.live_map()
    try:
        wait_for(lambda: told() == wanted, "the client has the map")
    except AssertionError:
        return f"no: {told()}, not {wanted}"
    return "yes"


def url_way(world: World) -> None:
    """By the address itself, named in `derp.urls`."""
    hs, customer = world.headscale, world.customer
    literal = world.lines("live-lines", is_fast=False)
    urls = yaml.safe_load(literal)["derp"]["urls"]
    first, second = world.lines("live-lines"), world.lines("live-lines", urls=urls[::-1])
    world.see("URL: start", world.start(literal), "starts: ours and Tailscale's")
    client = Client([], f"url-{world.version}", ADDRESS, world.folder, world.stack, hs.auth_key())
    world.see("URL: a client has every field of the JSON", told_as_json(world, client), "yes")
    customer.change_region()
    world.see("URL: changed, no restart: a client has it", told_as_json(world, client), "yes")
    both = "ours and Tailscale's"
    for order, lines, tailscales_fails, ours_fails in (
        ("ours first", first, ("ours", "starts: ours"), ("none", "does not start")),
        ("ours second", second, ("none", "does not start"), ("Tailscale's", "starts: Tailscale's")),
    ):
        for what, site, (running, started) in (
            ("Tailscale's fails", world.default, tailscales_fails),
            ("ours answers 503", world.panel, ours_fails),
        ):
            hs.start(lines)
            before, site.fails = hs.updates, True
            hs.wait_for_update(before)
            world.see(f"URL, {order}: {what}", world.map(), running, both)
            site.fails = False
            took = wait_long(lambda: world.map() == both, "the map is complete again")
            print(f"complete again after {took:.0f} s", flush=True)
            site.fails = True
            world.see(f"URL, {order}: {what}, start", world.start(lines), started, "does not start")
            site.fails = False
    hs.start(first)
    before = hs.updates
    world.panel.close()
    hs.wait_for_update(before)
    world.see("URL, ours first: the panel is away", world.map(), "none", both)
    customer.change_region()
    world.panel.open()
    took = wait_long(lambda: world.map() == both, "the changed map is there")
    print(f"the panel is back, and its changed map came after {took:.0f} s", flush=True)
    self_signed(world, urls)
    both_ways(world, urls)


def self_signed(world: World, urls: list[str]) -> None:
    """From a panel whose certificate is self-signed."""
    secure = f"https://127.0.0.1:{TLS_PORT}"
    ours = urls[0].replace(f"http://127.0.0.1:{PUBLIC_PORT}", secure)
    for order, list_of_urls, seen in (
        ("ours first", [ours, urls[1]], "does not start"),
        ("ours second", [urls[1], ours], "starts: Tailscale's"),
    ):
        lines = world.lines("live-lines", urls=list_of_urls)
        world.see(f"self-signed, URL, {order}: start", world.start(lines), seen, "does not start")
    for words, options in (("", ""), (" with --cacert", f"--cacert {world.folder}/panel.crt")):
        FILE.unlink(missing_ok=True)
        world.fetch_file(options=options, address=secure)
        world.see(
            f"self-signed, file{words}", "there" if FILE.exists() else "none", "there" if words else "none"
        )


def both_ways(world: World, urls: list[str]) -> None:
    """The same region in a file and at an address."""
    world.fetch_file()
    file = yaml.safe_load(FILE.read_text())
    number, region = next(iter(file["regions"].items()))
    region["regionname"] = "the file's"
    FILE.write_text(yaml.safe_dump(file))
    world.headscale.start(world.lines("live-lines", paths=[str(FILE)]))
    name = world.headscale.regions()[number]
    whose = "the file's" if name == "the file's" else "the address's"
    world.see("one region in a file and at an address", whose, "the address's", "the file's")


def end(world: World) -> None:
    """The rental ends, and returns."""
    world.fetch_file()
    fast, alone = world.lines("live-file-lines"), world.lines("live-file-lines", urls=[])
    by_url = world.lines("live-lines", paths=[])
    world.headscale.start(fast)
    world.customer.python("serials.pause_rental(rental=user.rental, by=None)")
    wait_long(lambda: not world.customer.live_map(), "the live URL lets the regions go")
    before = world.headscale.updates
    world.fetch_file()
    world.see("ended: the file", FILE.read_text().strip(), "regions: {}")
    world.headscale.wait_for_update(before)
    world.see("ended: running with the file", world.map(), "Tailscale's")
    world.see("ended: start with the file", world.start(fast), "starts: Tailscale's")
    world.see("ended: start with the file alone", world.start(alone), "does not start")
    world.see("ended: start with the URL", world.start(by_url), "starts: Tailscale's")
    world.customer.python("serials.resume_rental(rental=user.rental, by=None)")
    world.customer.wait_for_relays()
    wait_long(world.customer.live_map, "the live URL has the regions again")
    world.see("returned: the URL, no restart", wait_for_map(world), "ours and Tailscale's")


def wait_for_map(world: World) -> str:
    """What Headscale has once it is whole, or after a minute and a half."""
    with suppress(AssertionError):
        wait_for(lambda: world.map() == "ours and Tailscale's", "the map is whole", seconds=90, pause=1)
    return world.map()


def try_all(versions: list[str], folder: Path) -> int:
    """Run the checks in these namespaces, and print the table."""
    with ExitStack() as stack:
        furnish(folder, stack)
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write("127.0.0.1 controlplane.tailscale.com\n")
        certificate = make_certificate(folder, "controlplane", "DNS:controlplane.tailscale.com")
        default = Site(stack, 443, lambda _path: (200, DEFAULT), certificate)
        state = Folder(folder / "demo" / "var", DERPMGMT_PUBLIC_URL=f"http://127.0.0.1:{PUBLIC_PORT}")
        state.path.parent.mkdir()
        stack.enter_context(state.running("demo", seconds=300))
        wait_for((state.path / "demo.json").exists, "the demo says that it is ready")
        customer = Customer(state)
        panel = Site(stack, PUBLIC_PORT, customer.get)
        Site(stack, TLS_PORT, customer.get, make_certificate(folder, "panel", "IP:127.0.0.1"))
        worlds = []
        for version in versions:
            worlds.append(World(version, folder, customer, default, panel, stack))
            for check in (file_way, url_way, end):
                check(worlds[-1])
            worlds[-1].headscale.stop()
    print("\n".join(table(worlds)))
    return int(any(world.wrong for world in worlds))


def table(worlds: list[World]) -> Iterator[str]:
    """What was seen, a column for each version."""
    yield f"| | {' | '.join(f'Headscale {world.version}' for world in worlds)} |"
    yield f"| --- |{' --- |' * len(worlds)}"
    for what in worlds[0].rows:
        yield f"| {what} | {' | '.join(world.rows[what] for world in worlds)} |"


def main() -> int:
    """1 when something was not as the page and docs/running.md say."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.headscale", description=__doc__)
    parser.add_argument("versions", nargs="*", default=list(VERSIONS), help="default: %(default)s")
    parser.add_argument(INSIDE, type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return try_all(options.versions, options.inside)
    cron()
    for version in options.versions:
        headscale(version)
    with tempfile.TemporaryDirectory(prefix="derpmgmt-headscale-", dir="/tmp") as folder:
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += [sys.executable, "-m", "tests.lab.headscale", INSIDE, folder, *options.versions]
        return subprocess.run(command, env=os.environ).returncode


if __name__ == "__main__":
    sys.exit(main())
