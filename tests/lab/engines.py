"""The Engines that operators have, and `make test-engines`: the end-to-end tests on each of them, written down in docs/engines.md.

The hosts' systems are made by debootstrap, and Docker 29 is built from its Go module; both are kept in a folder outside of git
and used again. Arguments name the Engines to try (all, without), others go to pytest (`-kNAME` chooses tests). What was tried is
written anew into docs/engines.md, and what earlier runs saw of the rest stays.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.lab import suite
from tests.lab.kinds import GOOD, NO_PROXY, ROOTLESS, Kind

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "derpmgmt", "engines")
PAGE = Path(__file__).parents[2] / "docs/engines.md"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    *("docker.io", "docker-cli", "openssh-server", "iproute2", "iptables", "nftables", "ca-certificates"),
    *("procps", "rootlesskit", "slirp4netns", "uidmap", "fuse-overlayfs"),
    *("podman", "netavark", "aardvark-dns", "passt"),
)
# The module's tag and the Docker release that was made of it.
MOBY, MOBY_RELEASE = "v2.0.0-beta.24", "29.8"
GO_PROGRAMS = ("dockerd", "docker-proxy")


@dataclass(frozen=True)
class Engine:
    """An Engine with its settings: of which Debian (this machine's, where none is named), and whether built from Go."""

    title: str
    suite: str = ""
    is_built: bool = False
    daemon: dict[str, object] | None = None

    def on(self, kind: Kind) -> Kind:
        """A host of that kind with this Engine."""
        changed = replace(kind, daemon=kind.daemon | (self.daemon or {}))
        if self.suite:
            changed = replace(changed, system=str(CACHE / self.suite))
        return replace(changed, programs=str(CACHE / f"moby-{MOBY}")) if self.is_built else changed


ENGINES = {
    "20.10": Engine("Docker 20.10 (Debian 12)"),
    "26": Engine("Docker 26.1 (Debian 13)", "trixie"),
    "28": Engine("Docker 28.5 (Debian sid)", "sid"),
    "29": Engine(f"Docker {MOBY_RELEASE}", "sid", is_built=True, daemon={"userland-proxy": True}),
    "29-no-proxy": Engine(
        f"Docker {MOBY_RELEASE}, `userland-proxy: false`", "sid", is_built=True, daemon=NO_PROXY
    ),
}
# What the panel must refuse, by the name under which docs/engines.md tells what to do about it.
REFUSED = {
    "rootless": ROOTLESS,
    "iptables": Kind(daemon={"iptables": False}),
    "podman": Kind(is_podman=True),
}
# Each column of the table, and the tests that its cells tell of.
COLUMNS = {
    "server check": ["test_engine_kinds::test_each_good_server", "test_main_job::test_a_server_is_taken"],
    "three relays proven": ["test_main_job::test_three_relays", "test_main_job::test_the_waiting_time"],
    "left alone when in order": ["test_main_job::test_nothing_is_done", "test_main_job::test_hardening"],
    "repair": ["test_repair::"],
    "gate and its list": ["test_gates::"],
    "admission": ["test_admission::"],
    "removal": ["test_main_job::test_relays_are_removed", "test_servers::test_a_server_is_removed"],
}
FILES = [
    f"tests/e2e/test_{name}.py"
    for name in ("engine_kinds", "main_job", "repair", "servers", "gates", "admission")
]
# What is left out of them: a worker's death and the panel's own decisions do not hang on the Engine.
LEFT_OUT = (
    *(
        "is_killed",
        "panel_from_before",
        "another_address",
        "no_image",
        "lets_everybody_in",
        "login_is_refused",
    ),
    *("bound_to_servers", "servers_are_few", "in_maintenance", "concerns_no_relay"),
)


def under_test() -> Engine:
    """The Engine that DERPMGMT_TEST_ENGINE names; this machine's, where it names none."""
    return ENGINES[os.environ.get("DERPMGMT_TEST_ENGINE") or "20.10"]


def good_kinds() -> list[Kind]:
    """The three hosts that relays run on, with the Engine under test."""
    return [under_test().on(kind) for kind in GOOD]


def refused_kinds() -> dict[str, Kind]:
    """The hosts that the panel must refuse, with the Engine under test, as far as its Debian has what they need."""
    engine = under_test()
    if engine.daemon == NO_PROXY:  # told by the same Engine with its defaults
        return {}
    found = {name: engine.on(kind) for name, kind in REFUSED.items()}
    root = Path(found["podman"].system or "/")
    if engine.is_built or not (root / "usr/bin/podman").exists():
        del found["podman"]
    return found


def prepare(engine: Engine) -> None:
    """Makes what the Engine needs, if it is not there. Raises CalledProcessError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    system = CACHE / engine.suite
    if engine.suite and not (system / "usr/sbin/sshd").exists():
        print(f"making a Debian {engine.suite} in {system}, this takes minutes", flush=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder, engine.suite)
            packages = f"--include={','.join(PACKAGES)}"
            _run(["debootstrap", "--variant=minbase", packages, engine.suite, str(made), MIRROR])
            shutil.rmtree(system, ignore_errors=True)
            made.rename(system)
    programs = CACHE / f"moby-{MOBY}"
    if engine.is_built and not all((programs / name).exists() for name in GO_PROGRAMS):
        print(f"building Docker {MOBY_RELEASE} from its Go module, this takes minutes", flush=True)
        module = "github.com/moby/moby/v2"
        stamp = f"-ldflags=-X {module}/dockerversion.Version={MOBY_RELEASE}"
        for name in GO_PROGRAMS:
            _run(["go", "install", stamp, f"{module}/cmd/{name}@{MOBY}"], GOBIN=str(programs))


def _run(command: list[str], **environment: str) -> None:
    log = CACHE / "log"
    with log.open("ab") as output:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environment
        )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")


def try_engine(name: str, results: Path, arguments: list[str]) -> int:
    """pytest's exit code; what it found lies in `RESULTS/NAME.xml`, what it printed in `RESULTS/NAME.log`."""
    found = results / f"{name}.xml"
    found.unlink(missing_ok=True)
    print(f"{ENGINES[name].title} ...", flush=True)
    chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
    command = [sys.executable, "-m", suite.__name__, *FILES, "-q", "-k", chosen]
    with (results / f"{name}.log").open("wb") as log:
        done = subprocess.run(
            [*command, "-o", "junit_family=xunit1", f"--junitxml={found}", *arguments],
            env=os.environ | {"DERPMGMT_TEST_ENGINE": name},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    print(f"{ENGINES[name].title}: pytest's code is {done.returncode}", flush=True)
    return done.returncode


@dataclass(frozen=True)
class Case:
    """One test's outcome: `test` is `file::name`, `problem` the first line of what failed, `words` what the test wrote down."""

    test: str
    outcome: str
    problem: str
    words: dict[str, str]


def read_cases(results: Path) -> Iterator[Case]:
    """What pytest's JUnit file says."""
    for case in xml.etree.ElementTree.parse(results).iter("testcase"):  # noqa: S314 (our own pytest wrote it)
        problems = [case.find(kind) for kind in ("failure", "error")]
        problem = next((found.get("message", "") for found in problems if found is not None), None)
        is_skipped = case.find("skipped") is not None
        yield Case(
            f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}",
            "skipped" if is_skipped else "passed" if problem is None else "failed",
            (problem or "").splitlines()[0] if problem else "",
            {str(item.get("name")): item.get("value") or "" for item in case.iter("property")},
        )


def outcome_row(name: str, cases: list[Case]) -> str:
    """The line of the first table: for each column how many tests passed, or which failed."""
    cells = [ENGINES[name].title]
    for prefixes in COLUMNS.values():
        ran = [case for case in cases if case.test.startswith(tuple(prefixes)) and case.outcome != "skipped"]
        failed = [f"`{case.test.partition('::')[2]}`" for case in ran if case.outcome == "failed"]
        passed = len(ran) - len(failed)
        cells.append(f"**fails**: {', '.join(failed)}" if failed else f"passes ({passed})" if ran else "–")
    return f"| {' | '.join(cells)} |"


def refusal_rows(cases: list[Case]) -> list[str]:
    """Lines of the second table: what has been refused in which words."""
    rows = []
    for case in cases:
        if "refused" in case.words:
            said = case.words.get("said", "").replace("|", "\\|").replace("\n", " ")
            verdict = said if case.words["refused"] == "yes" else f"**accepted**: {said}"
            rows.append(f"| {case.words['engine']} | {case.words['kind']} | {verdict} |")
    return rows


def write_page(results: Path) -> None:
    """Puts the tables into the page, between its marks; what was not tried now stays as it was seen before."""
    seen = results / "seen.json"
    cases = json.loads(seen.read_text()) if seen.exists() else {}
    for name in ENGINES:
        found = results / f"{name}.xml"
        if found.exists():
            cases.setdefault(name, {}).update({case.test: asdict(case) for case in read_cases(found)})
    seen.write_text(json.dumps(cases))
    tried = {name: [Case(**case) for case in cases[name].values()] for name in ENGINES if name in cases}
    tables = {
        "outcomes": [
            f"| Engine | {' | '.join(COLUMNS)} |",
            f"| --- |{' --- |' * len(COLUMNS)}",
            *(outcome_row(name, found) for name, found in tried.items()),
        ],
        "refusals": [
            "| Engine | what it is | what the server check says |",
            "| --- | --- | --- |",
            *(line for found in tried.values() for line in refusal_rows(found)),
        ],
    }
    text = PAGE.read_text()
    for mark, lines in tables.items():
        begin, end = f"<!-- {mark}: written by make test-engines -->", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        text = before + "\n".join([begin, *lines, end]) + rest.partition(end)[2]
    PAGE.write_text(text)


def main() -> int:
    """1 when a test failed on any Engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.engines", description=__doc__)
    parser.add_argument("engines", nargs="*", help=f"of {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--beside", type=int, default=1, help="how many at a time (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("var/engines"), help="default: %(default)s")
    parser.add_argument("--page", action="store_true", help="only write the page from the last results")
    options, arguments = parser.parse_known_args()
    unknown = set(options.engines) - set(ENGINES)
    if unknown:
        parser.error(f"there is no Engine {', '.join(sorted(unknown))}")
    names = options.engines or list(ENGINES)
    options.results.mkdir(parents=True, exist_ok=True)
    codes = [0]
    if not options.page:
        for name in names:
            prepare(ENGINES[name])
        with ThreadPoolExecutor(options.beside) as pool:
            codes = list(pool.map(lambda name: try_engine(name, options.results, arguments), names))
    write_page(options.results)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
