"""`make demo-reset FLEET=lab` on the lab's hosts; here servers of the sandbox stand for them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from derpmgmt.lab_reset import clean_hosts
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine
from tests.panel.running import ROOT
from tests.sandbox.parts import connect, load_image

OURS, OTHERS = "0a1b2c3d", "ffffffff"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "var" / "demo-lab"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "panel_id").write_text(f"{OURS}\n")
    return folder


@pytest.fixture
def hosts_file(tmp_path: Path, sandbox: Sandbox) -> Path:
    """As the lab writes it."""
    path = tmp_path / "lab.json"
    path.write_text(json.dumps({"hosts": [host.as_json() for host in sandbox.hosts]}))
    return path


@pytest.fixture
def engines(sandbox: Sandbox, tmp_path: Path) -> Iterator[list[Engine]]:
    """Each server with a relay and a gate of our panel and of another one; one of them renamed, one stopped."""
    with ExitStack() as stack:
        found = []
        for host in sandbox.hosts:
            connection, engine = connect(host)
            stack.enter_context(closing(connection))
            stack.enter_context(closing(engine))
            tag = load_image(engine, tmp_path / "image")
            for panel in (OURS, OTHERS):
                for kind in ("relay", "gate"):
                    labels = {"derpmgmt.panel": panel, "derpmgmt.kind": kind, "derpmgmt.relay": "1"}
                    name = f"{kind}-renamed-{panel}"
                    engine.create_volume(name, labels=labels)
                    body = {"Image": tag, "Labels": labels}
                    engine.create_container_from_config(body, name)
            found.append(engine)
        yield found


def standing(engine: Engine) -> tuple[list[str], list[str]]:
    """Whose containers and volumes are there."""
    rows: list[Any] = [engine.containers(all=True), engine.volumes()["Volumes"] or []]
    containers, volumes = ([row["Labels"]["derpmgmt.panel"] for row in kind] for kind in rows)
    return sorted(containers), sorted(volumes)


def test_what_is_the_demos_goes_and_what_is_others_stays(
    state: Path, hosts_file: Path, engines: list[Engine]
) -> None:
    for _time in range(2):
        assert clean_hosts(state, hosts_file) == []
        for engine in engines:
            assert standing(engine) == ([OTHERS] * 2, [OTHERS] * 2)


def test_a_host_that_does_not_answer_is_said_and_the_others_are_cleaned(
    state: Path, hosts_file: Path, engines: list[Engine], sandbox: Sandbox
) -> None:
    down = sandbox.hosts[0]
    sandbox.server(0).fault(down=True)
    [said] = clean_hosts(state, hosts_file)
    assert down.address in said
    assert OURS in said
    assert standing(engines[1]) == ([OTHERS] * 2, [OTHERS] * 2)


@pytest.mark.parametrize("content", [b"", b"no id", b"\xff", None])
def test_without_the_panels_id_nothing_is_touched(
    state: Path, hosts_file: Path, engines: list[Engine], content: bytes | None
) -> None:
    key = state / "keys" / "panel_id"
    key.unlink() if content is None else key.write_bytes(content)
    [said] = clean_hosts(state, hosts_file)
    assert "panel_id" in said
    assert standing(engines[0]) == ([OURS, OURS, OTHERS, OTHERS], [OURS, OURS, OTHERS, OTHERS])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"hosts": [1]}', None])
def test_where_no_lab_is_that_is_said(state: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "lab.json"
    if content is not None:
        path.write_text(content)
    assert len(clean_hosts(state, path)) == 1
    assert clean_hosts(tmp_path / "nothing", path) == []


@pytest.mark.slow
def test_the_command_cleans_the_hosts_before_the_state_goes(
    state: Path, hosts_file: Path, engines: list[Engine]
) -> None:
    code = (
        "import pathlib, sys; from derpmgmt.reset import reset_demo;"
        "print(reset_demo(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(hosts_file)],
        cwd=ROOT,
        env=os.environ | {"DERPMGMT_VAR_DIR": str(state.parent), "DERPMGMT_FLEET": "lab", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "make demo FLEET=lab" in done.stdout
    assert not state.exists()
    for engine in engines:
        assert standing(engine) == ([OTHERS] * 2, [OTHERS] * 2)
