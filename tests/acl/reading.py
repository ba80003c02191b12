"""Reading a live URL as Headscale does, and what can be away meanwhile."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client

from acl.maps import services
from acl.maps.models import LiveUrl

EMPTY: dict[str, Any] = {"Regions": {}}


def path_of(url: LiveUrl) -> str:
    address = services.live_address(url)
    assert address.startswith("http://testserver/live/")
    return address.removeprefix("http://testserver")


def get(path: str, **headers: str) -> Any:
    return Client().get(path, headers={"User-Agent": "headscale", **headers}, REMOTE_ADDR="198.51.100.7")


def regions(path: str) -> set[str]:
    answer = get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    return set(answer.json()["Regions"])


def is_passed_over(answer: Any) -> bool:
    """Whether Headscale keeps the map it has."""
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(answer.content)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    return True


@contextmanager
def database_away() -> Iterator[None]:
    def refuse(*args: Any) -> Any:
        raise OperationalError("server has gone away")

    with connection.execute_wrapper(refuse):
        yield


def live_folder() -> Path:
    """Where the copies on disk lie."""
    return Path(settings.VAR_DIR) / "live"
