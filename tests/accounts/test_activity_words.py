"""Every action of the activity log has words, and the admin shows and finds it by them."""

import ast
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.test import Client
from django.utils import translation

from accounts import wordlist
from accounts.models import User
from accounts.services import log_operation
from derpmgmt.admin_site import PanelAdminSite
from derpmgmt.lib.env import BASE_DIR
from tests.factories import UserFactory

pytestmark = pytest.mark.slow

APPS = ("accounts", "acl", "billing", "containers", "derpmgmt", "distribution", "fleet", "serials")
LOG = "/admin/accounts/operationlog/"


def actions(tree: ast.AST) -> Iterator[str]:
    """The actions that a module writes: what is given to `log_operation`, also by a variable, and to helpers of the same kind."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = [keyword.value for keyword in node.keywords if keyword.arg == "action"]
        if name == "_log":
            given = node.args[1:2]
        elif name not in {"log_operation", "log_line"}:
            continue
        for value in given:
            for part in assigned.get(value.id, []) if isinstance(value, ast.Name) else [value]:
                yield from (
                    leaf.value
                    for leaf in ast.walk(part)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                )


def test_every_action_that_is_written_has_words_and_no_other() -> None:
    files = [path for app in APPS for path in (BASE_DIR / app).rglob("*.py")]
    written = {action for path in files for action in actions(ast.parse(path.read_text()))}
    assert len(written) > 50
    assert written == set(wordlist.ACTIONS)


def test_words_are_told_apart() -> None:
    words = [str(name) for name in wordlist.ACTIONS.values()]
    assert sorted(set(words)) == sorted(words)


@pytest.fixture
def staff() -> Iterator[Client]:
    user = UserFactory(username="op", email="op@example.com", role=User.Role.ADMIN, language="en")
    client = Client()
    client.force_login(user)
    with mock.patch.object(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff):
        yield client


@pytest.mark.django_db
def test_the_admin_shows_and_finds_actions_by_their_words(staff: Any) -> None:
    entry = log_operation(by=None, action="device.revoked", target="nas")
    log_operation(by=None, action="map.renewed", target="v7")
    log_operation(by=None, action="of.an-older-version", target="thing")
    page = staff.get(LOG).content.decode()
    rows = page.split("<tbody>")[1].split("</tbody>")[0]
    assert "Device revoked" in rows
    assert "device.revoked" not in rows
    # What has no words any more is shown as it stands.
    assert "of.an-older-version" in rows
    assert ">Device revoked</a>" in page.split("<tbody>")[0] + page.split("</tbody>")[1]
    rows = (
        staff.get(LOG, {"action": "device.revoked"}).content.decode().split("<tbody>")[1].split("</tbody>")[0]
    )
    assert "nas" in rows
    assert "v7" not in rows
    one = staff.get(f"{LOG}{entry.pk}/change/").content.decode()
    assert "Device revoked" in one
    with translation.override("en"):
        assert str(entry) == "Device revoked nas"
