"""A proxy that is not counted, and a panel that nobody outside reaches, are said."""

from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from derpmgmt.lib import address
from derpmgmt.panel import unreachable
from tests.panel import world

ALL = "0.0.0.0"  # noqa: S104


@pytest.fixture
def start_page(db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The admin's start page as a super admin sees it."""
    monkeypatch.setattr(address, "_noted_at", -1e9)
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)

    def show(**headers: str) -> str:
        client.cookies["django_language"] = "en"
        User.objects.filter(pk=client.session["_auth_user_id"]).update(language="en")
        return client.get("/admin/", **headers).content.decode()

    return show


def test_start_page_says_that_a_proxy_is_not_believed(start_page: Any, settings: Any) -> None:
    assert "DERPMGMT_TRUSTED_PROXIES" not in start_page()
    text = start_page(HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert "The reverse proxy in front of the panel is not believed" in text
    assert "DERPMGMT_TRUSTED_PROXIES" in text
    settings.TRUSTED_PROXIES = 1
    assert "DERPMGMT_TRUSTED_PROXIES" not in start_page(HTTP_X_FORWARDED_FOR="198.51.100.1")


def test_it_is_said_when_only_others_come_through_the_proxy(start_page: Any) -> None:
    Client().get("/", REMOTE_ADDR="8.8.8.8", HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert "DERPMGMT_TRUSTED_PROXIES" not in start_page()  # anybody may write that
    Client().get("/", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert "DERPMGMT_TRUSTED_PROXIES" in start_page()


@pytest.mark.parametrize(
    ("relay_url", "bind", "proxies", "is_said"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 0, True),
        ("http://localhost:8000", ALL, 0, True),
        ("http://[::1]:8000", "::1", 0, True),
        ("http://203.0.113.7:8000", "127.0.0.1", 0, True),
        ("http://203.0.113.7:8000", "127.0.0.1", 1, True),  # the very port of the panel
        ("http://[2001:db8::1]:8000", "::1", 0, True),
        ("https://derp.example.com", "127.0.0.1", 0, True),
        ("https://derp.example.com", "127.0.0.1", 1, False),
        ("http://203.0.113.7:8000", ALL, 0, False),
        ("http://203.0.113.7:8000", "203.0.113.7", 0, False),
        ("https://derp.example.com", ALL, 0, False),
        ("http://[2001:db8::1]:8000", "::", 0, False),
    ],
)
def test_start_says_which_setting_lets_servers_reach_the_panel(
    relay_url: str, bind: str, proxies: int, is_said: bool
) -> None:
    said = unreachable(relay_url, bind, 8000, proxies)
    assert len(said) == is_said
    assert all("DERPMGMT_BIND" in sentence for sentence in said)
