#!/bin/sh
# dropbear 2022.83 with paramiko 5.1.0: the channel after one that was closed while its program still ran may be closed at once.
#
# A client closes a session channel whose program (cat) still runs, which SSH allows at any time (RFC 4254, section 5.3), and opens the
# next one on the same connection without waiting for the server's own CHANNEL_CLOSE of the first, for which there is no need either.
# Seen: of 200 such connections some (12 in one run) get "Channel closed" for the new channel or lose its command's answer; none of 100
# do when the next channel is opened a moment later.
#
# Needs Debian 12 on amd64, root (a mount of its own for the account's file), Debian's and PyPI's packages. Fails when no connection
# shows it, or one does that waited.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download dropbear-bin=2022.83-1+deb12u3 libtomcrypt1=1.18.2-6 libtommath1=1.2.0-6+deb12u1 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu" PATH="$folder/root/usr/sbin:$folder/root/usr/bin:$PATH"
python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check paramiko==5.1.0 cryptography==50.0.2
python/bin/python - <<'PY'
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

key = Ed25519PrivateKey.generate()
form, plain = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
Path("client").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
Path(".ssh").mkdir(mode=0o700)
public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
Path(".ssh/authorized_keys").write_bytes(key.public_key().public_bytes(*public))
PY
chmod 600 client .ssh/authorized_keys
sed "s#^root:.*#root:x:0:0:root:$folder:/bin/sh#" /etc/passwd > passwd
dropbearkey -t ed25519 -f host >/dev/null 2>&1
dropbear -V
python/bin/python - <<'PY'
import socket
import subprocess
import sys
import time

import paramiko

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
mount = 'mount --bind passwd /etc/passwd && exec dropbear -F -E -r host -P pid -p "$1"'
server = subprocess.Popen(
    ["unshare", "--mount", "sh", "-c", mount, "sh", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL
)
key = paramiko.Ed25519Key.from_private_key_file("client")


def works(waits: bool) -> bool:
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port)))
    try:
        transport.start_client(timeout=10)
        transport.auth_publickey("root", key)
        first = transport.open_session()
        first.exec_command("cat")
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        first.close()
        if waits:
            time.sleep(0.2)
        try:
            second = transport.open_session(timeout=5)
            second.settimeout(5)
            second.exec_command("echo there")
            answer = b""
            while data := second.recv(100):
                answer += data
            return answer == b"there\n"
        except (paramiko.SSHException, OSError):
            return False
    finally:
        transport.close()


try:
    time.sleep(1)
    at_once = [works(waits=False) for _ in range(200)]
    waited = [works(waits=True) for _ in range(100)]
finally:
    server.terminate()
    server.wait()
print(f"paramiko {paramiko.__version__}: at once {at_once.count(False)} of 200 fail, after the close {waited.count(False)} of 100")
sys.exit(not (False in at_once and False not in waited))
PY
