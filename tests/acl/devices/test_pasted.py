"""What terminals put around `tailscale status --json` and `headscale nodes list`: the same devices as without it, or a refusal."""

import json
import random
import re
from typing import Any

import pytest
import yaml

from acl.devices import pasted
from acl.devices.node_keys import NewDevice, NoNodeKey, NotAList, has_other_key, parse_devices

A, B, C, D, E, F, G, H = (digits * 32 for digits in ("a1", "b2", "c3", "d4", "e5", "f6", "97", "86"))
OWN = "tail1234.ts.net"


def node(key: str, host: str, dns: str, **fields: Any) -> dict[str, Any]:
    return {
        "ID": f"n{key[:4]}CNTRL",
        "PublicKey": f"nodekey:{key}",
        "HostName": host,
        "DNSName": dns,
        "OS": "linux",
        "UserID": 1001,
        "TailscaleIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
        "AllowedIPs": ["100.64.0.1/32"],
        "Relay": "tok",
        "Online": True,
        **fields,
    }


STATUS = {
    "Version": "1.102.5-t0123456789-g0123456789",
    "TUN": True,
    "BackendState": "Running",
    "HaveNodeKey": True,
    "Health": ["Tailscale can't reach the configured DNS servers."],
    "MagicDNSSuffix": OWN,
    "CurrentTailnet": {"Name": "a@example.com", "MagicDNSSuffix": OWN, "MagicDNSEnabled": True},
    "Self": node(A, "nas", f"nas.{OWN}."),
    "Peer": {
        f"nodekey:{B}": node(B, "localhost", f"pixel-9.{OWN}.", OS="android"),
        f"nodekey:{C}": node(C, "MacBook-Pro", f"macbook-pro.{OWN}."),
        f"nodekey:{D}": node(D, "macbook-pro", f"macbook-pro-1.{OWN}.", UserID=2002),
        f"nodekey:{E}": node(E, "friends-box", "friends-box.tail9876.ts.net.", UserID=3003),
        f"nodekey:{F}": node(F, "device-of-shared-to-user", "", UserID=3003, ShareeNode=True),
        f"nodekey:{G}": node(G, "jp-tyo-wg-001", "jp-tyo-wg-001.mullvad.ts.net.", ExitNodeOption=True, Tags=["tag:mullvad-exit-node"]),
        f"nodekey:{H}": node(H, "funnel-ingress-node", "", OS="", ShareeNode=True, Tags=["tag:ingress"]),
    },
    "User": {"1001": {"ID": 1001, "LoginName": "a@example.com", "DisplayName": "A {1}"}},
}  # fmt: skip
OWNED = [
    NewDevice(A, "nas"),
    NewDevice(B, "pixel-9"),
    NewDevice(C, "macbook-pro"),
    NewDevice(D, "macbook-pro-1"),
]
BARE = json.dumps(STATUS, indent=2)
WARNING = 'Warning: client version "1.102.5-t0123456789" != tailscaled server version "1.100.0-tabcdef"\n'


def wrap(text: str, width: int) -> str:
    """As a terminal of so many columns copies it that breaks lines for good."""
    return "\n".join(
        line[at : at + width] for line in text.split("\n") for at in range(0, max(len(line), 1), width)
    )


def coloured(text: str, escape: str = "\x1b") -> str:
    """As `jq -C` prints it."""
    return re.sub(r'("[^"\n]*")', rf"{escape}[34;1m\1{escape}[0m", text).replace(
        "{", f"{escape}[1;39m{{{escape}[0m"
    )


AROUND = {
    "bare": BARE,
    "one line": json.dumps(STATUS),
    "bash": f"root@nas:~# tailscale status --json\n{BARE}\nroot@nas:~# ",
    "bash with brackets": f"[root@nas ~]# tailscale status --json\n{BARE}\n[root@nas ~]# exit\n",
    "a job": f"[1] 4711\n$ tailscale status --json &\n{BARE}\n[1]+  Done                    tailscale status --json\n",
    "powershell": f"PS C:\\Users\\Wang> tailscale status --json\r\n{BARE.replace(chr(10), chr(13) + chr(10))}\r\nPS C:\\Users\\Wang> ",
    "cmd": f"Microsoft Windows [Version 10.0.26100]\n(c) Microsoft Corporation.\n\nC:\\>tailscale status --json\n{BARE}\n\nC:\\>",
    "zsh": f"~/src/app git:(main) {{prod}} % tailscale status --json\n{BARE}%\n~/src/app git:(main) {{prod}} % ",
    "fish": f"wang@nas ~> tailscale status --json\n{BARE}⏎\nwang@nas ~> ",
    "powerline": f"\ue0b0 ~ \ue0b0 tailscale status --json  ❯\n{BARE}\n╰─❯ ",
    "a warning before": WARNING + BARE,
    "a warning behind": f"{BARE}\n{WARNING}",
    "a warning on the same line": BARE + WARNING,
    "colours": coloured(BARE),
    "colours whose escapes are signs": coloured(BARE, "^["),
    "colours whose escapes are gone": coloured(BARE, ""),
    "a title": f"\x1b]0;wang@nas: ~\x07\x1b[?2004h$ \x1b[?2004l\r{BARE}\x1b[K",
    "byte order mark": "\ufeff" + BARE,
    "UTF-16 read byte by byte": "".join(f"{character}\0" for character in BARE),
    "no-break spaces": BARE.replace(" ", "\u00a0"),
    "no-width spaces": "\u200b" + BARE.replace("\n", "\n\u200b"),
    "twice": f"{BARE}\n{BARE}",
    "twice, with a prompt between": f"$ tailscale status --json\n{BARE}\n$ tailscale status --json\n{WARNING}{BARE}\n$ ",
    "a code block": f"```json\n{BARE}\n```",
    "keys above": f"nodekey:{E} friends-box\n{BARE}",
    "carriage returns": BARE.replace("\n", "\r"),
    "more": "\n--More--\n".join(re.findall(r"(?s).{1,700}", BARE)),
    "more with a part": "--More--(12%)\r              \r".join(re.findall(r"(?s).{1,701}", BARE)),
    "more of Windows": "-- More  --\r              \r".join(re.findall(r"(?s).{1,702}", BARE)),
    "more of Windows with a part": "\n-- More (37%) --\n".join(re.findall(r"(?s).{1,703}", BARE)),
    "less": f"{BARE}\n(END)",
    **{f"{width} columns": wrap(BARE, width) for width in (20, 79, 80, 120)},
    **{f"one line in {width} columns": wrap("# " + json.dumps(STATUS), width) for width in (40, 80, 132)},
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_json_changes_nothing(name: str) -> None:
    assert parse_devices(AROUND[name]) == OWNED


@pytest.mark.parametrize("part", range(1, 40))
def test_a_text_that_is_cut_off_is_refused(part: int) -> None:
    at = len(BARE) * part // 40
    for text in (BARE[:at], BARE[at:], f"$ tailscale status --json\n{BARE[at:]}\n$ ", f"{BARE}\n{BARE[:at]}"):
        with pytest.raises(NotAList):
            parse_devices(text)
    assert at


def test_nothing_of_others_comes_in_whatever_is_done_to_the_text() -> None:
    """A piece is taken out or doubled, or a line is put in, anywhere: the network's own devices or fewer, never another's."""
    chance = random.Random(8)
    own = {device.node_key for device in OWNED}
    for _ in range(400):
        first, last = sorted(chance.sample(range(len(BARE)), 2))
        change = chance.choice(["", "\n", BARE[first:last] * 2, WARNING, "$ \n", "\x1b[0m"])
        last = first if change in {WARNING, "$ \n", "\x1b[0m", "\n"} else last
        text = BARE[:first] + change + BARE[last:]
        try:
            found = {device.node_key for device in parse_devices(text)}
        except NoNodeKey:
            continue
        assert found <= own, text
        assert not {device.name for device in parse_devices(text)} & {"{", "}", '"'}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(STATUS["Peer"]),
        json.dumps(STATUS["Peer"][f"nodekey:{E}"], indent=1),  # type: ignore[index]
        "\n".join(json.dumps(peer) for peer in STATUS["Peer"].values()),  # type: ignore[attr-defined]
        json.dumps(list(STATUS["Peer"].values())),  # type: ignore[attr-defined]
        json.dumps({"Peer": STATUS["Peer"]}),
        json.dumps({**STATUS, "Self": None}),
        f'"PublicKey": "nodekey:{E}",\n"HostName": "friends-box"',
        f"PublicKey : nodekey:{E}\nSelf : @{{HostName=friends-box; UserID=3003}}",
        BARE.replace('"Peer"', WARNING + '"Peer"'),
        yaml.safe_dump(STATUS, sort_keys=False),
        yaml.safe_dump(STATUS["Peer"]),
        "".join(f"{field:14} : {value}\n" for field, value in STATUS["Self"].items()),  # type: ignore[attr-defined]
        f"HostName=friends-box PublicKey=nodekey:{E}",
        "\n".join(f"> {line}" for line in f"- id: 1\n  nodekey: nodekey:{E}\n  givenname: box".split("\n")),
        BARE.replace(f'PublicKey": "nodekey:{B[:20]}', f'PublicKey": "nodekey:{B[:20]} ... '),
        BARE.replace(f'PublicKey": "nodekey:{B}', f'PublicKey": "nodekey:{E}'),
    ],
    ids=["peers", "a peer", "peers in lines", "list", "no self", "null self", "lines of it", "powershell object", "a warning in it",
         "status as yaml", "peers as yaml", "powershell list", "assignments", "quoted yaml", "a broken key", "two keys of one peer"],
)  # fmt: skip
def test_what_does_not_say_whose_devices_it_names_is_refused(text: str) -> None:
    with pytest.raises(NotAList):
        parse_devices(text)


def test_a_peer_without_a_name_is_its_users() -> None:
    def status(**fields: Any) -> str:
        return json.dumps({"Self": node(A, "nas", ""), "Peer": {"x": node(B, "box", "", **fields)}})

    assert parse_devices(status()) == [NewDevice(A, "nas"), NewDevice(B, "box")]
    assert parse_devices(status(UserID=3003)) == [NewDevice(A, "nas")]


def test_the_network_is_known_by_the_devices_own_name_when_nothing_else_says_it() -> None:
    status = {key: value for key, value in STATUS.items() if key in {"Self", "Peer"}}
    assert parse_devices(json.dumps(status)) == OWNED


# Headscale

NODES = [
    {"id": 1, "machine_key": f"mkey:{H}", "node_key": f"nodekey:{A}", "name": "localhost", "given_name": "pixel",
     "user": {"id": 1, "name": "wang"}, "online": True},
    {"id": 2, "machine_key": f"mkey:{H}", "node_key": f"nodekey:{B}", "name": "NAS", "given_name": "nas", "tags": []},
]  # fmt: skip
LISTED = [NewDevice(A, "pixel"), NewDevice(B, "nas")]
YAML = f"""- id: 1
  machinekey: mkey:{H}
  nodekey: nodekey:{A}
  discokey: discokey:{G}
  ipaddresses:
    - 100.64.0.1
    - fd7a:115c:a1e0::1
  name: localhost
  user:
    id: 1
    name: wang
    createdat:
        seconds: 1764460800
        nanos: 0
  givenname: pixel
  online: true
- id: 2
  machinekey: mkey:{H}
  nodekey: nodekey:{B}
  name: NAS
  user: null
  givenname: nas
"""


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(NODES, indent="\t"),
        json.dumps(NODES),
        f"root@hs:~# headscale nodes list -o json-line\n{json.dumps(NODES)}\nroot@hs:~# ",
        json.dumps({"nodes": [{"nodeKey": one["node_key"], "givenName": one["given_name"]} for one in NODES]}),
        YAML,
        f"root@hs:~# headscale nodes list -o yaml\n{YAML}\nroot@hs:~# ",
        f"\x1b[33mAn updated version of Headscale has been found\x1b[0m\n{YAML}",
        "\ufeff" + YAML.replace("\n", "\r\n"),
    ],
    ids=["json", "json-line", "json-line in a terminal", "api", "yaml", "yaml in a terminal", "yaml with a notice", "yaml with marks"],
)  # fmt: skip
def test_headscales_list_is_read_with_its_names(text: str) -> None:
    assert parse_devices(text) == LISTED


@pytest.mark.parametrize(
    "text",
    [YAML[YAML.index("  nodekey") :], YAML[: YAML.index(B) + 60], f"nodekey: nodekey:{A}", YAML.replace("- id: 1", "- id: [1")],
    ids=["beginning", "end", "one line of it", "broken"],
)  # fmt: skip
def test_yaml_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(NotAList):
        parse_devices(text)


def test_tailscales_api_leaves_out_what_was_shared_into_the_network() -> None:
    devices = [
        {"nodeKey": f"nodekey:{A}", "hostname": "nas", "name": f"nas.{OWN}", "isExternal": False},
        {"nodeKey": f"nodekey:{E}", "hostname": "friends-box", "name": "friends-box.tail9876.ts.net", "isExternal": True},
    ]  # fmt: skip
    assert parse_devices(json.dumps({"devices": devices})) == [NewDevice(A, "nas")]


# Lines


@pytest.mark.parametrize(
    "kind", ["mkey", "mkey:", "discokey :", "Machine key:", "machine_key =", "Disco key", "privkey"]
)
def test_a_key_of_another_kind_is_no_node_key_however_it_is_written(kind: str) -> None:
    with pytest.raises(NoNodeKey):
        parse_devices(f"{kind} {E}")
    assert has_other_key(f"{kind} {E}")
    assert parse_devices(f"{kind} {E}\nnodekey:{A} nas") == [NewDevice(A, "nas")]


@pytest.mark.parametrize(
    "text",
    [f"书房：nodekey:{A}", f"书房，nodekey：{A}", f"书房 = nodekey:{A}", f"NodeKey:{A.upper()} 书房", f"书房:nodekey:{A}", f"书房 Node key: {A}"],
)  # fmt: skip
def test_marks_beside_a_key_are_no_part_of_its_name(text: str) -> None:
    assert parse_devices(text) == [NewDevice(A, "书房")]


def test_lines_are_read_as_before_between_prompts_too() -> None:
    text = f"$ tailscale status --json | jq -r .Self.PublicKey\nnodekey:{A}%\nnodekey:{B} 书房的 NAS\r\n"
    assert parse_devices(text) == [NewDevice(A, ""), NewDevice(B, "书房的 NAS")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_is_read_as_it_was_written(encoding: str) -> None:
    assert parse_devices(pasted.decode(BARE.encode(encoding))) == OWNED
