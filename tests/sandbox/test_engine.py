"""The sandbox's Docker Engine, against a recording of the real one and through the panel's client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine, engine_errors, open_engine
from fleet.engine_errors import EngineError
from fleet.ssh import Connection
from tests.sandbox.conversation import converse
from tests.sandbox.gate_talk import PROGRAM
from tests.sandbox.parts import connect, endpoint_of, make_relay, relay_files
from tests.sandbox.talk import Talk

pytestmark = pytest.mark.slow

RECORDED = json.loads(Path(__file__).with_name("engine_20_10.json").read_text())


def test_sandbox_answers_like_a_real_engine_when_asked_the_same(sandbox: Sandbox) -> None:
    host = sandbox.hosts[0]
    connection = Connection.open(endpoint_of(host), 10.0)
    talk = Talk(lambda: connection.open_unix(host.docker_socket, 30.0), host.address)

    def restart() -> None:
        nonlocal connection
        connection.close()
        sandbox.server(0).fault(down=True)
        sandbox.server(0).heal()
        connection = Connection.open(endpoint_of(host), 10.0)

    program, nginx = b"a placeholder", {PROGRAM.lstrip("/"): b"another"}
    converse(talk, program, nginx, relay_files(host.address), restart=restart, pause=0.5)

    connection.close()
    assert list(talk.record) == list(RECORDED)
    different = {
        name: (RECORDED[name], answer) for name, answer in talk.record.items() if answer != RECORDED[name]
    }
    assert different == {}


def test_image_has_the_id_of_its_configuration_when_loaded(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    import hashlib
    import tarfile

    with tarfile.open(next((tmp_path / "image").glob("*.tar"))) as archive:
        name = next(name for name in archive.getnames() if name.endswith(".json") and name != "manifest.json")
        content = archive.extractfile(name)
        assert content is not None
        assert engine.inspect_image(image)["Id"] == f"sha256:{hashlib.sha256(content.read()).hexdigest()}"


def test_engine_answers_when_only_a_docker_command_leads_to_it(sandbox: Sandbox, image: str) -> None:
    sandbox.server(0).fault(streamlocal_refused=True)
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)

    through_command = open_engine(connection, sandbox.hosts[0].docker_socket, 10.0)

    assert through_command.images()[0]["RepoTags"] == [image]
    through_command.close()
    connection.close()


def test_servers_know_nothing_of_each_other_when_both_are_used(
    sandbox: Sandbox, engine: Engine, image: str
) -> None:
    make_relay(sandbox.hosts[0], image).run(engine)

    connection, second = connect(sandbox.hosts[1])

    assert second.containers(all=True) == []
    assert second.images() == []
    connection.close()


@pytest.mark.parametrize(
    ("field", "value"), [("Memory", "much"), ("ReadonlyRootfs", "yes"), ("CapDrop", ["EVERYTHING"])]
)
def test_container_is_refused_when_a_field_makes_no_sense(
    sandbox: Sandbox, engine: Engine, image: str, field: str, value: object
) -> None:
    body = make_relay(sandbox.hosts[0], image).spec.create_body

    with pytest.raises(EngineError), engine_errors():
        engine.create_container_from_config(
            {**body, "HostConfig": {**body["HostConfig"], field: value}}, "wrong"
        )

    assert engine.containers(all=True) == []
