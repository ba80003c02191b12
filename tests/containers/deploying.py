"""What deploying promises, whatever fleet it is proved on: the sandbox and the lab run the same tests.

A fleet gives the fixture `host`: one server with a Docker Engine, empty of our things but for the image.
"""

import hashlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from containers.certificates import make_certificate
from containers.deploy import (
    Found,
    ensure_image,
    make_so,
    put_files,
    read_differences,
    read_ours,
    read_volumes,
    remove_orphans,
    remove_relay,
)
from containers.image import ImageArchive
from containers.problems import ContainerStopped
from containers.spec import RelaySpec
from fleet.engine import Engine, engine_errors
from fleet.ssh import RemoteError

PANEL = "0a1b2c3d"
OTHER_PANEL = "ffffffff"
STEPS = ["network", "image", "clean", "volume", "create", "files", "start", "check"]


@dataclass
class Host:
    """One server: its Engine, the address that relays are bound to, ports that are free there, and the image."""

    engine: Engine
    address: str
    ports: Iterator[int]
    archive: ImageArchive
    steps: list[str] = field(default_factory=list)

    def spec(self, relay_id: int = 1, panel_id: str = PANEL) -> RelaySpec:
        """A relay with a certificate and keys of its own on ports that are free."""
        certificate = make_certificate(self.address, datetime.now(UTC))
        return RelaySpec(
            panel_id=panel_id,
            relay_id=relay_id,
            address=self.address,
            derp_port=next(self.ports),
            stun_port=next(self.ports),
            image=self.archive.tag,
            certificate_pem=certificate.pem,
            certificate_key_pem=certificate.key_pem,
            private_key=hashlib.sha256(b"private").hexdigest(),
            mesh_key=hashlib.sha256(b"mesh").hexdigest(),
        )

    def make(self, spec: RelaySpec, on_step: Callable[[str], None] | None = None) -> bool:
        """`make_so`, with the steps it took in `steps`."""

        def note(step: str) -> None:
            self.steps.append(step)
            if on_step:
                on_step(step)

        self.steps.clear()
        return make_so(self.engine, spec, self.archive, note)

    def only(self) -> Found:
        """The one container that is ours."""
        [found] = read_ours(self.engine, PANEL)
        return found

    def leftovers(self, panel_id: str = PANEL) -> tuple[list[Found], set[int]]:
        """Containers and volumes that are ours."""
        return read_ours(self.engine, panel_id), read_volumes(self.engine, panel_id)


class KilledError(BaseException):
    """Ends a deployment between two steps as SIGKILL does: nothing is tidied up."""


def kill_at(step: str) -> Callable[[str], None]:
    def on_step(name: str) -> None:
        if name == step:
            raise KilledError

    return on_step


def served_pin(spec: RelaySpec) -> str:
    """SHA-256 of the certificate that the relay's port serves."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((spec.address, spec.derp_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=spec.address) as secure,
    ):
        return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()


def wanted_pin(spec: RelaySpec) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(spec.certificate_pem)).hexdigest()


class DeployBehaviour:
    """The tests; a fleet's test module inherits them and gives the fixture `host`."""

    def test_relay_runs_with_its_files_when_host_was_empty(self, host: Host) -> None:
        spec = host.spec()
        assert host.make(spec) is True
        assert host.steps == STEPS
        found = host.only()
        assert (found.relay_id, found.name, found.state) == (1, "derp-0a1b2c3d-1", "running")
        assert (found.spec_hash, found.kind, found.is_wired) == (spec.spec_hash, "relay", True)
        assert read_volumes(host.engine, PANEL) == {1}
        assert read_differences(host.engine, spec) == []
        assert served_pin(spec) == wanted_pin(spec)

    def test_nothing_is_done_when_nothing_differs(self, host: Host) -> None:
        spec = host.spec()
        host.make(spec)
        before = host.engine.inspect_container(spec.container_name)
        assert host.make(spec) is False
        assert host.steps == []
        after = host.engine.inspect_container(spec.container_name)
        assert (after["Id"], after["State"]) == (before["Id"], before["State"])

    def test_relay_is_started_again_when_somebody_stopped_it(self, host: Host) -> None:
        spec = host.spec()
        host.make(spec)
        before = host.only()
        host.engine.stop(spec.container_name, timeout=1)
        assert host.only().state == "exited"
        assert host.make(spec) is True
        assert host.steps == ["start", "check"]
        assert host.only() == before
        assert served_pin(spec) == wanted_pin(spec)

    def test_relay_is_made_again_when_somebody_removed_it(self, host: Host) -> None:
        spec = host.spec()
        host.make(spec)
        host.engine.remove_container(spec.container_name, force=True)
        assert host.make(spec) is True
        assert host.only().state == "running"

    def test_relay_is_replaced_when_the_spec_changed(self, host: Host) -> None:
        old = host.spec()
        host.make(old)
        before = host.only()
        new = host.spec()
        assert host.make(new) is True
        assert host.steps == STEPS
        found = host.only()
        assert found.container_id != before.container_id
        assert found.spec_hash == new.spec_hash
        assert served_pin(new) == wanted_pin(new)

    def test_relay_is_replaced_when_somebody_renamed_it(self, host: Host) -> None:
        spec = host.spec()
        host.make(spec)
        host.engine.rename(spec.container_name, "mine-now")
        assert host.only().is_wired is False
        assert host.make(spec) is True
        found = host.only()
        assert (found.name, found.state, found.is_wired) == (spec.container_name, "running", True)

    def test_relay_is_made_when_a_container_without_our_labels_has_its_name(self, host: Host) -> None:
        spec = host.spec()
        ensure_image(host.engine, host.archive)
        host.engine.create_container_from_config({"Image": host.archive.tag}, spec.container_name)
        assert host.make(spec) is True
        assert host.only().state == "running"

    @pytest.mark.parametrize("step", STEPS)
    def test_one_whole_relay_stands_when_the_first_try_was_killed(self, host: Host, step: str) -> None:
        spec = host.spec()
        with pytest.raises(KilledError):
            host.make(spec, kill_at(step))
        assert host.make(spec) is (step != "check")
        assert host.only().state == "running"
        assert read_volumes(host.engine, PANEL) == {1}
        assert read_differences(host.engine, spec) == []
        assert served_pin(spec) == wanted_pin(spec)

    @pytest.mark.parametrize("step", STEPS)
    def test_nothing_is_left_when_a_killed_try_is_cleaned_up(self, host: Host, step: str) -> None:
        with pytest.raises(KilledError):
            host.make(host.spec(), kill_at(step))
        remove_relay(host.engine, PANEL, 1)
        assert host.leftovers() == ([], set())

    def test_nothing_is_left_when_the_port_was_taken(self, host: Host) -> None:
        first = host.spec(1)
        host.make(first)
        second = replace(host.spec(2), derp_port=first.derp_port)
        with pytest.raises(RemoteError) as refusal:
            host.make(second)
        assert refusal.value.code == "port_taken"
        remove_relay(host.engine, PANEL, 2)
        assert host.only().relay_id == 1
        assert read_volumes(host.engine, PANEL) == {1}
        assert served_pin(first) == wanted_pin(first)

    def test_reason_is_told_when_the_relay_does_not_stay_up(self, host: Host) -> None:
        broken = replace(host.spec(), certificate_pem="no certificate")
        with pytest.raises(ContainerStopped) as refusal:
            host.make(broken)
        assert refusal.value.code == "crashed"
        assert refusal.value.detail
        assert broken.private_key not in refusal.value.detail
        assert host.make(host.spec()) is True
        assert host.only().state == "running"

    def test_one_that_had_to_be_restarted_is_not_taken_for_up(self, host: Host) -> None:
        whole = host.spec()
        broken = replace(whole, certificate_pem="no certificate")

        def mend(step: str) -> None:
            """What it lacked arrives after it has crashed, so that it runs by the time that it is looked at."""
            if step != "check":
                return
            name, deadline = whole.container_name, time.monotonic() + 20
            while not host.engine.inspect_container(name)["RestartCount"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            put_files(host.engine, name, whole.files_dir, whole.files)
            while True:
                with suppress(OSError):
                    if served_pin(whole) == wanted_pin(whole):
                        return
                assert time.monotonic() < deadline
                time.sleep(0.02)

        with pytest.raises(ContainerStopped):
            host.make(broken, mend)
        state = host.engine.inspect_container(whole.container_name)["State"]
        assert state["Status"] == "running"

    def test_removing_is_silent_when_there_is_nothing(self, host: Host) -> None:
        remove_relay(host.engine, PANEL, 404)
        host.make(host.spec())
        for _ in range(2):
            remove_relay(host.engine, PANEL, 1)
            assert host.leftovers() == ([], set())

    def test_only_orphans_of_this_panel_go_when_they_are_removed(self, host: Host) -> None:
        kept, foreign = host.spec(1), host.spec(2, OTHER_PANEL)
        for spec in (kept, host.spec(2), foreign):
            host.make(spec)
        for relay_id, step in ((3, "create"), (4, "files")):
            with pytest.raises(KilledError):
                host.make(host.spec(relay_id), kill_at(step))
        assert remove_orphans(host.engine, PANEL, lambda _standing: {1, 9}) == [2, 3, 4]
        assert remove_orphans(host.engine, PANEL, lambda _standing: {1, 9}) == []
        assert host.only().relay_id == 1
        assert read_volumes(host.engine, PANEL) == {1}
        [other], volumes = host.leftovers(OTHER_PANEL)
        assert (other.state, volumes) == ("running", {2})
        assert served_pin(kept) == wanted_pin(kept)
        assert served_pin(foreign) == wanted_pin(foreign)

    def test_image_is_loaded_once_when_it_is_ensured_twice(self, host: Host) -> None:
        with engine_errors():
            ensure_image(host.engine, host.archive)
            host.engine.remove_image(host.archive.tag, force=True)
        seen: list[tuple[int, int]] = []
        assert ensure_image(host.engine, host.archive, lambda sent, total: seen.append((sent, total))) is True
        assert seen[0] == (0, host.archive.size)
        assert seen[-1] == (host.archive.size, host.archive.size)
        assert sorted(seen) == seen
        assert ensure_image(host.engine, host.archive) is False

    def test_host_is_untouched_when_the_archive_is_broken(self, host: Host, tmp_path) -> None:
        path = tmp_path / "broken.tar"
        path.write_bytes(b"this is no archive" * 100)
        broken = replace(host.archive, path=path, tag="derpmgmt/derper:000000000000", size=1800)
        spec = replace(host.spec(), image=broken.tag)
        with pytest.raises(RemoteError):
            make_so(host.engine, spec, broken, host.steps.append)
        assert host.steps == ["network", "image"]
        assert host.leftovers() == ([], set())

    def test_spec_is_refused_when_the_archive_holds_another_image(self, host: Host) -> None:
        with pytest.raises(ValueError, match="another image"):
            make_so(host.engine, replace(host.spec(), image="other:1"), host.archive, host.steps.append)
        assert host.steps == []
