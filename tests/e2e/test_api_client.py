"""The client of `docs/`, word for word, against a fleet: from an address and a serial number to a file with the map."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.core import mail

from acl.maps.models import AclConfig, AclEvent
from serials.rentals.models import Rental
from tests.factories import SerialNumberFactory
from tests.panel.running import ROOT

from .conftest import assert_in_order
from .door import panel as panel
from .door import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
PASSWORD = "quiet-river-42"


def test_the_client_writes_the_map_of_three_proven_relays(
    fleet, work, panel, settings, tmp_path: Path
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    serial, file = SerialNumberFactory(), tmp_path / "map.json"
    client = subprocess.Popen(
        [sys.executable, ROOT / "docs/api_client.py", panel.url, "new@example.com", serial.code, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert client.stdin
    try:
        client.stdin.write(f"{PASSWORD}\n")
        client.stdin.flush()
        wait_for(lambda: mail.outbox, 60)
        code = re.search(r"\b\d{6}\b", str(mail.outbox[0].body))
        assert code
        client.stdin.write(f"{code[0]}\n")
        client.stdin.flush()
        deadline = time.monotonic() + 60
        # The bell rings a moment after the rental is seen, so the workers look on.
        while client.poll() is None:
            assert time.monotonic() < deadline, "the client does not come to its end"
            work(sweep=True)
            time.sleep(0.05)
        told, _errors = client.communicate()
    finally:
        client.kill()
    assert client.returncode == 0, told
    rental = Rental.objects.get()
    assert_in_order(fleet, rental)
    config = AclConfig.objects.get(rental=rental)
    assert json.loads(file.read_text())["Regions"] == config.derp_map["Regions"]
    assert AclEvent.objects.filter(rental=rental, kind=AclEvent.Kind.DOWNLOADED).exists()
    assert serial.code not in told
