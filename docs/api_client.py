#!/usr/bin/env python3
"""Signs up at a panel, redeems a serial number, waits for three proven relays and writes the map to a file.

    python3 api_client.py https://panel.example.com you@example.com ABCD-EFGH-JKLM-NPQR map.json

Needs nothing but Python; the whole API is described at /api/docs of the panel. The password is asked for, and the code that
comes by mail. Whoever has an account already leaves the code empty.
"""

import base64
import getpass
import json
import pathlib
import sys
import urllib.error
import urllib.request

PANEL, EMAIL, SERIAL, FILE = sys.argv[1:5] if len(sys.argv) == 5 else sys.exit(__doc__)
token = ""


def ask(method, path, body=None, key=None):
    """The answer of the API; ends with its own words where it is a failure."""
    headers = {"Content-Type": "application/json", "Accept-Language": "en"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["Idempotency-Key"] = key  # sent again after a lost answer, it is done once all the same
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{PANEL}/api/v1/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as failure:
        found = json.load(failure)
        sys.exit(f"{path}: {found['message']} ({found['code']}) {found['field']}")


password = getpass.getpass("Password: ") if sys.stdin.isatty() else input()
print(ask("POST", "user/send_code", {"email": EMAIL})["message"])
if code := input("Code from the mail: ").strip():
    ask("POST", "user/register", {"email": EMAIL, "password": password, "verification_code": code})
token = ask("POST", "user/login", {"email": EMAIL, "password": password})["token"]

rental = ask("POST", "serial/activate", {"serial_code": SERIAL}, key=f"activate {SERIAL}")
print(f"Rented until {rental['new_expiry_time']}.")
while True:
    relays = ask("GET", "container/list?status=running")["containers"]
    print(f"{len(relays)} of 3 relays have carried a packet.")
    if len(relays) >= 3:
        break
    ask("GET", rental["follow"].removeprefix("/api/v1/") + "?wait=10")

made = ask("POST", "acl/generate", {})
file = ask("GET", f"acl/download/{made['acl_code']}")
pathlib.Path(FILE).write_bytes(base64.b64decode(file["acl_file"]))
print(f"Version {made['version']} of the map is in {FILE}. Paste it into the policy file of your tailnet.")
