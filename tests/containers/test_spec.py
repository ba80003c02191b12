"""The wanted container as data."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from containers.spec import RelaySpec, rate_files

SPEC = RelaySpec(
    panel_id="0a1b2c3d",
    relay_id=7,
    address="203.0.113.9",
    derp_port=30001,
    stun_port=30002,
    image="derpmgmt/derper:0123456789ab",
    certificate_pem="a certificate",
    certificate_key_pem="the certificate's key",
    private_key="1f" * 32,
    mesh_key="2e" * 32,
    verify_url="http://derp-gate-0a1b2c3d:8080/relay/7",
)

# Of `SPEC`, as it was before relays took rates.
OLD_HASH = "b965532dd44d40dd824cde16ddffb1a969889c518d71923ea74e16de2e3009c2"

CHANGES: dict[str, Any] = {
    "panel_id": "0a1b2c3e",
    "relay_id": 8,
    "address": "203.0.113.10",
    "derp_port": 30003,
    "stun_port": 30003,
    "image": "derpmgmt/derper:ba9876543210",
    "certificate_pem": "another certificate",
    "certificate_key_pem": "another key",
    "private_key": "3d" * 32,
    "mesh_key": "4c" * 32,
    "bind_address": "10.0.0.4",
    "verify_url": "https://panel.example/admission/7",
    "fail_open": True,
    "inner_stun_port": 30002,
    "takes_rate": True,
    "memory_bytes": 64 * 1024 * 1024,
    "pids_limit": 64,
}


def test_every_field_has_a_change_when_hashes_are_compared():
    assert set(CHANGES) == {field.name for field in fields(RelaySpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_hash_changes_when_a_field_changes(name):
    changed = replace(SPEC, **{name: CHANGES[name]})
    assert changed.spec_hash != SPEC.spec_hash
    assert changed.labels["derpmgmt.spec"] == changed.spec_hash


def test_hash_is_the_same_when_another_process_makes_it():
    program = f"from containers.spec import RelaySpec, rate_files; print({SPEC!r}.spec_hash)".replace(
        "certificate_pem=",
        f"certificate_key_pem={SPEC.certificate_key_pem!r}, private_key={SPEC.private_key!r}, "
        f"mesh_key={SPEC.mesh_key!r}, certificate_pem=",
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SPEC.spec_hash


def test_no_secret_is_shown_when_printed_or_inspected():
    shown = repr(SPEC) + json.dumps(SPEC.create_body)
    for secret in (SPEC.private_key, SPEC.mesh_key, SPEC.certificate_key_pem):
        assert secret not in shown


def test_container_is_hardened_when_created():
    body = SPEC.create_body
    host = body["HostConfig"]
    assert body["User"] == "65532:65532"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == 128 * 1024 * 1024
    assert host["PidsLimit"] == 256
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert not host.get("Privileged")
    assert not host.get("Binds")


def test_both_ports_are_bound_to_the_address_when_created():
    assert SPEC.create_body["HostConfig"]["PortBindings"] == {
        "8443/tcp": [{"HostIp": "203.0.113.9", "HostPort": "30001"}],
        "3478/udp": [{"HostIp": "203.0.113.9", "HostPort": "30002"}],
    }
    behind_nat = replace(SPEC, bind_address="10.0.0.4").create_body["HostConfig"]["PortBindings"]
    assert {bindings[0]["HostIp"] for bindings in behind_nat.values()} == {"10.0.0.4"}


def test_names_and_labels_tell_whose_it_is_when_read_on_the_host():
    assert SPEC.container_name == "derp-0a1b2c3d-7"
    assert SPEC.create_body["HostConfig"]["Mounts"][0]["Source"] == "derp-0a1b2c3d-7"
    assert SPEC.labels == {
        "derpmgmt.panel": "0a1b2c3d",
        "derpmgmt.relay": "7",
        "derpmgmt.kind": "relay",
        "derpmgmt.spec": SPEC.spec_hash,
    }


def test_files_are_what_derper_reads_when_started():
    assert {path: content.decode() for path, content in SPEC.files.items()} == {
        "/relay/derper.json": '{"PrivateKey": "privkey:' + "1f" * 32 + '"}',
        "/relay/mesh.psk": "2e" * 32,
        "/relay/203.0.113.9.crt": "a certificate",
        "/relay/203.0.113.9.key": "the certificate's key",
    }
    for flag in ("-c=/relay/derper.json", "-mesh-psk-file=/relay/mesh.psk", "-certdir=/relay"):
        assert flag in SPEC.command


def test_admission_fails_closed_unless_the_operator_chose_otherwise():
    assert "-verify-client-url=http://derp-gate-0a1b2c3d:8080/relay/7" in SPEC.command
    assert "-verify-client-url-fail-open=false" in SPEC.command
    assert "-verify-client-url-fail-open=true" in replace(SPEC, fail_open=True).command
    asking_nobody = replace(SPEC, verify_url="", fail_open=True)
    assert not any("verify" in flag for flag in asking_nobody.command)


def test_relay_is_not_remade_when_nobody_is_asked_as_before():
    before = "6cda91538e8848ddd46e63e483008cf8cf7505c0a92d67e3bd53ceee55537faa"
    assert replace(SPEC, verify_url="").spec_hash == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("panel_id", "0A1B2C3D"),
        ("panel_id", "0a1b2c3"),
        ("relay_id", -1),
        ("address", "relay.example"),
        ("address", "2001:db8::1"),
        ("bind_address", "::"),
        ("derp_port", 0),
        ("stun_port", 65536),
        ("private_key", "privkey:" + "1f" * 32),
        ("mesh_key", "2E" * 32),
        ("verify_url", "ftp://panel.example"),
        ("verify_url", "https://panel.example/a b"),
    ],
)
def test_bad_value_is_refused_without_being_repeated_when_given(name, value):
    with pytest.raises(ValueError, match=name) as refusal:
        replace(SPEC, **{name: value})
    if name in ("private_key", "mesh_key"):
        assert value not in str(refusal.value)


def test_one_that_takes_rates_starts_again_after_the_signal_that_brings_them():
    body = replace(SPEC, takes_rate=True).create_body
    assert "-rate-config=/relay/rate.json" in body["Cmd"]
    # As a signal through the Engine counts for a stop else (docs/design.md).
    assert (body["HostConfig"]["RestartPolicy"]["Name"], body["StopSignal"]) == ("always", "SIGTERM")
    assert {path: json.loads(content) for path, content in rate_files(64_000).items()} == {
        "/relay/rate.json": {"PerClientRateLimitBytesPerSec": 64_000}
    }
    assert list(rate_files(None).values()) == [b"{}"]


def test_relays_from_before_rates_keep_the_container_they_have():
    """Their hash must stay for good: another one would have all of them made anew at once."""
    assert SPEC.spec_hash == OLD_HASH


def test_one_that_takes_rates_has_none_at_first():
    assert replace(SPEC, takes_rate=True).files["/relay/rate.json"] == b"{}"
    assert "/relay/rate.json" not in SPEC.files
