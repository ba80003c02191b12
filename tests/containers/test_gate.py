"""The wanted gate as data: its container, its configuration and its list."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from containers.gate import (
    ALL_BUT,
    EVERYBODY,
    GateSpec,
    gate_name,
    gate_url,
    list_files,
    list_hash,
    render_list,
)

SPEC = GateSpec(
    panel_id="0a1b2c3d",
    image="derpmgmt/gate:0123456789ab",
    secret="a-Secret_of_the_server0123456789abcdefghijk",
    panel_url="https://203.0.113.1:8443/panel",
    ca_pem="certificates",
)
CHANGES: dict[str, Any] = {
    "panel_id": "0a1b2c3e",
    "image": "derpmgmt/gate:ba9876543210",
    "secret": "another" * 7,
    "panel_url": "https://panel.example",
    "ca_pem": "others",
    "memory_bytes": 1,
    "pids_limit": 1,
}
KEY, OTHER = "1f" * 32, "2e" * 32


def configuration(spec: GateSpec) -> str:
    return spec.files["/gate/nginx.conf"].decode()


def test_every_field_has_a_change_when_hashes_are_compared():
    assert set(CHANGES) == {field.name for field in fields(GateSpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_hash_changes_when_a_field_changes(name):
    assert replace(SPEC, **{name: CHANGES[name]}).spec_hash != SPEC.spec_hash


def test_secret_stands_in_one_file_alone_when_printed_or_inspected():
    assert SPEC.secret not in repr(SPEC) + json.dumps(SPEC.create_body)
    assert [path for path, content in SPEC.files.items() if SPEC.secret.encode() in content] == [
        "/gate/nginx.conf"
    ]


def test_container_is_hardened_and_reached_by_its_name_alone_when_created():
    body = SPEC.create_body
    host = body["HostConfig"]
    assert (body["User"], body["StopSignal"], body["Cmd"]) == (
        "65532:65532",
        "SIGQUIT",
        ["-c", "/gate/nginx.conf"],
    )
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges"],
    )
    assert host["Memory"] == host["MemorySwap"] == 64 * 1024 * 1024
    assert (host["NetworkMode"], host["RestartPolicy"]["Name"]) == ("derpmgmt", "always")
    assert "PortBindings" not in host
    assert host["Mounts"] == [{"Type": "volume", "Source": gate_name("0a1b2c3d"), "Target": "/gate"}]
    assert SPEC.labels == {
        "derpmgmt.panel": "0a1b2c3d",
        "derpmgmt.kind": "gate",
        "derpmgmt.spec": SPEC.spec_hash,
    }


def test_relays_ask_the_gate_by_name_when_they_have_a_verify_url():
    assert gate_url("0a1b2c3d", 17) == "http://derp-gate-0a1b2c3d:8080/relay/17"


def test_panel_is_asked_with_the_secret_and_verified_when_it_has_tls():
    told = configuration(SPEC)
    assert 'set $panel "https://203.0.113.1:8443/panel";' in told
    assert f'proxy_set_header Authorization "Bearer {SPEC.secret}";' in told
    assert "proxy_ssl_verify on;" in told
    assert 'proxy_ssl_name "203.0.113.1";' in told
    assert SPEC.files["/gate/panel.pem"] == b"certificates"
    plain = configuration(replace(SPEC, panel_url="http://203.0.113.1/"))
    assert 'set $panel "http://203.0.113.1";' in plain
    assert "proxy_ssl" not in plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("panel_id", "0A1B2C3D"),
        ("secret", "short"),
        ("secret", 'a";return 200;#' * 4),
        ("panel_url", "ftp://panel.example"),
        ("panel_url", "https://"),
        ("panel_url", "https://panel.example/$x"),
        ("panel_url", 'https://panel.example/";'),
        ("panel_url", "https://user:word@panel.example"),
        ("panel_url", "https://panel.example?a=b"),
        ("panel_url", "https://面板.example"),
    ],
)
def test_bad_value_is_refused_without_being_repeated_when_given(name, value):
    with pytest.raises(ValueError, match=name) as refusal:
        replace(SPEC, **{name: value})
    assert value not in str(refusal.value)


def test_list_is_sorted_and_names_nobody_twice_when_rendered():
    entries = [(18, KEY), (17, OTHER), (17, KEY), (18, KEY), (20, EVERYBODY), (20, ALL_BUT + KEY)]
    assert render_list(entries).decode().splitlines() == [
        f'"/relay/17|nodekey:{KEY}" 1;',
        f'"/relay/17|nodekey:{OTHER}" 1;',
        f'"/relay/18|nodekey:{KEY}" 1;',
        f'"/relay/20|nodekey:{KEY}" 0;',
        '"~^/relay/20\\|" 1;',
    ]
    assert render_list(reversed(entries)) == render_list(entries)
    assert render_list([]) == b""


@pytest.mark.parametrize(
    "key", ["", "nodekey:" + KEY, KEY.upper(), KEY + "0", '" 1; "', "密" * 64, "-" + EVERYBODY, "--" + KEY]
)
def test_list_is_refused_when_it_names_what_is_no_key(key):
    with pytest.raises(ValueError, match="node key"):
        render_list([(17, key)])


def test_hash_stands_beside_the_list_when_it_is_delivered():
    content = render_list([(17, KEY)])
    assert list(list_files(content).items()) == [
        ("/gate/known.map", content),
        ("/gate/known.sha256", list_hash(content).encode()),
    ]
