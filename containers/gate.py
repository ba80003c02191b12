"""The wanted gate of one server as plain data: its container, nginx's configuration, and the list of known devices.

The gate passes every question of a relay on to the panel and adds the server's secret. The panel's answer is the answer,
whatever it is; only while the panel is away, hung or failing (502, 504 and its own 500 to 504) the list decides. Pure:
nothing here talks to a host or a database. Directives are those of nginx 1.22 (https://nginx.org/en/docs/dirindex.html),
the question is derper's (`tailcfg.DERPAdmitClientRequest`).
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from containers.spec import LABEL_KIND, LABEL_PANEL, PANEL_ID, USER_ID, ContainerSpec

KIND_GATE = "gate"
GATE_DIR = "/gate"
GATE_PORT = 8080
GATE_PROGRAM = "/usr/sbin/nginx"
LIST_PATH = f"{GATE_DIR}/known.map"
LIST_HASH_PATH = f"{GATE_DIR}/known.sha256"
EVERYBODY = "*"
ALL_BUT = "-"

Entry = tuple[int, str]
"""Who may come in: a relay's primary key, and a node key (64 hex digits) or `EVERYBODY`; `ALL_BUT` and a node key shuts that
one out where everybody else may."""

_NODE_KEY = re.compile(r"[0-9a-f]{64}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{32,}")
# Nothing in it means anything in nginx's configuration.
_PANEL_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~%/-]*)?")
_NGINX_CONF = """\
# Written by the panel, which makes the gate anew when this differs from what it should be.
daemon off;
worker_processes 1;
# Old workers end soon after a new list, and with them what they know.
worker_shutdown_timeout 10s;
pid /tmp/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    server_tokens off;
    default_type application/json;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    client_header_timeout 3s;
    client_body_timeout 3s;
    send_timeout 5s;
    # A question is some 130 bytes. In one buffer, since the list is asked about what stands in it.
    client_max_body_size 1k;
    client_body_buffer_size 1k;
    client_body_in_single_buffer on;
    # Names in the panel's address are resolved when a question comes, so that the gate starts without.
    resolver 127.0.0.11 ipv6=off valid=30s;
    resolver_timeout 1s;
    map_hash_bucket_size 1024;
    map_hash_max_size 8192;
    map $request_body $key {{
        default "";
        '~^\\s*\\{{\\s*"NodePublic"\\s*:\\s*"(?<node>nodekey:[0-9a-f]{{64}})"\\s*,\\s*"Source"\\s*:\\s*"[^"\\\\\\\\]*"\\s*\\}}\\s*$' $node;
    }}
    map "$uri|$key" $is_known {{
        default 0;
        include {list_path};
    }}
    server {{
        listen {port};
        location / {{ return 404; }}
        location ~ "^/relay/(?<relay>[0-9]{{1,19}})$" {{
            limit_except POST {{ deny all; }}
            set $panel "{panel_url}";
            proxy_pass $panel/admission/$relay;
            proxy_http_version 1.1;
            # Nothing of the question's headers goes on: a relay must not speak for the gate.
            proxy_pass_request_headers off;
            proxy_set_header Connection "";
            proxy_set_header Content-Type application/json;
            proxy_set_header Authorization "Bearer {secret}";
            # A relay waits five seconds.
            proxy_connect_timeout 1s; proxy_read_timeout 2s; proxy_send_timeout 1s;
            proxy_next_upstream off;
            proxy_redirect off;
{tls}            proxy_intercept_errors on;
            error_page 500 502 503 504 = @away;
        }}
        location @away {{
            if ($key = "") {{ return 400; }}
            if ($is_known) {{ return 200 '{{"Allow":true}}'; }}
            return 403;
        }}
    }}
}}
"""
_TLS = """\
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_server_name on;
            proxy_ssl_name "{host}";
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 5;
            proxy_ssl_trusted_certificate {folder}/panel.pem;
"""


def gate_name(panel_id: str) -> str:
    """The name of a server's gate: of its container and volume, and by which relays find it on their network."""
    return f"derp-gate-{panel_id}"


def gate_labels(panel_id: str) -> dict[str, str]:
    """The labels that say whose a gate's container and volume are."""
    return {LABEL_PANEL: panel_id, LABEL_KIND: KIND_GATE}


def gate_url(panel_id: str, relay_id: int) -> str:
    """What a relay asks for admission: its server's gate."""
    return f"http://{gate_name(panel_id)}:{GATE_PORT}/relay/{relay_id}"


def render_list(entries: Iterable[Entry]) -> bytes:
    """The list of known devices as nginx's `map` includes it: one line an entry, sorted, none twice.

    A whole text comes before a pattern there, so one device can be left out of everybody. Raises ValueError for what is no `Entry`.
    """
    lines = set()
    for relay_id, who in entries:
        key = who.removeprefix(ALL_BUT)
        if who == EVERYBODY:
            lines.add(rf'"~^/relay/{relay_id:d}\|" 1;')
        elif _NODE_KEY.fullmatch(key):
            lines.add(f'"/relay/{relay_id:d}|nodekey:{key}" {int(key == who)};')
        else:
            raise ValueError("a node key must be 64 lowercase hex digits")
    return "".join(f"{line}\n" for line in sorted(lines)).encode()


def list_hash(content: bytes) -> str:
    """SHA-256, in hex, of a rendered list."""
    return hashlib.sha256(content).hexdigest()


def list_files(content: bytes) -> dict[str, bytes]:
    """A rendered list as files of the gate: its hash stands beside it, for a look without reading all of it."""
    return {LIST_PATH: content, LIST_HASH_PATH: list_hash(content).encode()}


@dataclass(frozen=True)
class GateSpec(ContainerSpec):
    """Everything that decides what a server's gate is, but for its list, which changes while it runs.

    `secret` proves to the panel which server asks. `panel_url` is how the server reaches the panel, `ca_pem` the
    certificates that an https one is verified with. nginx compares names only: the certificate of a panel that is reached
    by its IP address must have that address as its common name. Raises ValueError for anything else.
    """

    panel_id: str
    image: str
    secret: str = field(repr=False)
    panel_url: str
    ca_pem: str = field(repr=False)
    memory_bytes: int = 64 * 1024 * 1024
    pids_limit: int = 64

    def __post_init__(self) -> None:
        if not PANEL_ID.fullmatch(self.panel_id):
            raise ValueError("panel_id must be 8 lowercase hex digits")
        if not _SECRET.fullmatch(self.secret):
            raise ValueError("secret must be at least 32 letters, digits, - and _")
        if not _PANEL_URL.fullmatch(self.panel_url) or not urlsplit(self.panel_url).hostname:
            raise ValueError("panel_url must be a plain http or https address")

    @property
    def container_name(self) -> str:
        return gate_name(self.panel_id)

    @property
    def files_dir(self) -> str:
        return GATE_DIR

    @property
    def files(self) -> dict[str, bytes]:
        parts = urlsplit(self.panel_url)
        tls = _TLS.format(host=parts.hostname, folder=GATE_DIR) if parts.scheme == "https" else ""
        configuration = _NGINX_CONF.format(
            panel_url=self.panel_url.rstrip("/"),
            secret=self.secret,
            list_path=LIST_PATH,
            port=GATE_PORT,
            tls=tls,
        )
        return {
            f"{GATE_DIR}/nginx.conf": configuration.encode(),
            f"{GATE_DIR}/panel.pem": self.ca_pem.encode(),
        }

    @property
    def command(self) -> list[str]:
        """nginx's arguments. `docker inspect` and `ps` show them, so no secret stands here."""
        return ["-c", f"{GATE_DIR}/nginx.conf"]

    @property
    def identity_labels(self) -> dict[str, str]:
        return gate_labels(self.panel_id)

    @property
    def _unlabelled_body(self) -> dict[str, Any]:
        return {
            "Image": self.image,
            "Cmd": self.command,
            "User": f"{USER_ID}:{USER_ID}",
            # A new list comes with HUP. The Engine takes any signal for a stop unless another one is named for that, and
            # then no longer restarts the container when it dies, nor with `unless-stopped` when the Engine itself starts.
            "StopSignal": "SIGQUIT",
            "HostConfig": {
                **self._hardened(
                    memory_bytes=self.memory_bytes, pids_limit=self.pids_limit, restart="always"
                ),
                "Tmpfs": {"/tmp": f"size=4m,mode=0700,uid={USER_ID},gid={USER_ID}"},  # noqa: S108
            },
        }
