"""Every operation of the API, asked as every role and about another's things: nobody sees or changes what is not theirs.

An operation that stands in no class below fails the tests: whoever adds one says for whom it is.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.core.cache import cache
from django.db import transaction
from django.test import Client

from accounts import services
from accounts.access.models import Scope
from accounts.models import User
from derpmgmt import api
from fleet.models import Region
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import AlertFactory, UserFactory, WholeRentalFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

# For everybody, also who is not signed in.
PUBLIC = {"user_send_code", "user_register", "user_login"}
# About one's own things; staff may name another's.
OWN = {
    "user_me", "user_logout", "user_show", "user_release", "user_tokens", "user_revoke_token",
    "user_history", "alert_list", "user_renew", "user_rental_info", "notifications_list", "logs_system",
    "serial_activate", "serial_activation", "serial_status",
    "container_list", "container_status", "container_probe", "container_traffic", "container_limits", "rental_limits",
    "traffic_realtime", "traffic_stats", "traffic_over_limit",
    "acl_generate", "acl_update", "acl_logs", "acl_download", "acl_download_by_name", "acl_verify",
    "acl_live", "acl_live_make", "acl_live_revoke",
    "device_list", "device_add", "device_approve", "device_ignore", "device_revoke", "device_rename",
    "device_window_open", "device_window_close", "device_admissions",
}  # fmt: skip
# For staff only.
STAFF = {
    "user_list", "notifications_send", "alert_send", "alert_resolve", "rental_pause", "rental_resume",
    "serial_generate", "serial_list", "serial_recall", "container_allocate", "container_release", "container_change",
    "rental_set_limits", "rental_add_traffic", "server_change",
    "server_add", "server_check", "server_confirm_host_key", "server_drain", "server_end_draining", "server_health_check", "server_host_key", "server_list",
    "server_maintenance", "server_regions", "server_resume", "server_retire", "server_status",
    "monitoring_health", "monitoring_load_analysis", "monitoring_logs",
}  # fmt: skip
# Only in a browser that is signed in: the scope of no token is enough.
BROWSER = {"user_make_token"}


def described() -> dict[str, Any]:
    return api.describe()


def operations() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, method, path and description of each."""
    for path, methods in described()["paths"].items():
        for method, operation in methods.items():
            yield operation["operationId"], method, path, operation


ASKED = {name: found for name, *found in operations()}
NAMES = sorted(ASKED)


def test_every_operation_is_of_one_class() -> None:
    classes = [PUBLIC, OWN, STAFF, BROWSER]
    assert sorted(name for of_class in classes for name in of_class) == NAMES


class Victim:
    """A customer with everything one can have, and a request about that for each operation."""

    def __init__(self) -> None:
        rental = WholeRentalFactory()
        assert isinstance(rental, Rental)
        self.rental, self.user = rental, rental.user
        self.relay = rental.relays.order_by("pk")[0]
        self.serial = rental.redemptions.get().serial
        # What fields and places of addresses mean: the victim's own.
        self.named: dict[str, Any] = {
            "user_id": self.user.pk,
            "alert_id": AlertFactory(customer=self.user).pk,
            "rental_id": rental.pk,
            "container_id": self.relay.pk,
            "relay_id": self.relay.pk,
            "server_id": self.relay.server_id,
            "server_ids": [self.relay.server_id],
            "device_id": rental.devices.order_by("pk")[0].pk,
            "serial_id": self.serial.pk,
            "code": self.serial.code,
            "serial_code": self.serial.code,
            "username": self.user.username,
            "email": self.user.email,
            "region": Region.objects.order_by("pk")[0].code,
        }
        self.schemas = described()["components"]["schemas"]

    def ask(self, asker: Api, name: str) -> Any:
        """The answer to `asker`, who asks this operation about the victim's things."""
        method, path, operation = ASKED[name]
        word = path.split("/")[3]
        query = {}
        for parameter in operation.get("parameters", []):
            value = self._value(parameter["name"], parameter["schema"], word)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(value))
            elif parameter["in"] == "query" and (parameter["required"] or parameter["name"] in self.named):
                query[parameter["name"]] = value
        body = operation.get("requestBody")
        given = self._body(body["content"]["application/json"]["schema"], word) if body else None
        if method == "get":
            return Client().get(path, query, headers=asker.headers)
        return getattr(Client(), method)(
            path, {} if given is None else given, content_type="application/json", headers=asker.headers
        )

    def _body(self, schema: dict[str, Any], word: str) -> Any:
        schema = self._resolve(schema)
        needed = set(schema.get("required", ())) | (self.named.keys() & schema["properties"].keys())
        return {name: self._value(name, schema["properties"][name], word) for name in needed}

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        return self.schemas[reference.rpartition("/")[2]] if reference else schema

    def _value(self, name: str, schema: dict[str, Any], word: str) -> Any:
        own = self.named.get(f"{word}_id" if name == "id" else name)
        if own is not None:
            return own
        schema = self._resolve(schema)
        for kind in schema.get("anyOf", [schema]):
            kind = self._resolve(kind)
            if kind.get("examples") or schema.get("examples"):
                return (kind.get("examples") or schema["examples"])[0]
            if "enum" in kind or "const" in kind:
                return kind.get("const", kind.get("enum", [None])[0])
            made = {"integer": 1, "boolean": True, "string": "x", "array": [], "object": {}}
            if kind.get("type") in made:
                return made[kind["type"]]
        raise AssertionError(f"no example of {name}")

    def rows(self) -> dict[str, list[Any]]:
        """All rows of all rooms, but the tokens' last use and what askers did themselves."""
        found = {}
        for model in apps.get_models():
            if model._meta.app_label in {"accounts", "acl", "containers", "fleet", "serials"} and model.__name__ not in {
                "ApiToken", "OperationLog",
            }:  # fmt: skip
                found[model._meta.label] = list(model._default_manager.order_by("pk").values_list())
        return found


@pytest.fixture
def victim() -> Victim:
    return Victim()


def asker(role: str) -> Api:
    user = UserFactory(role=role)
    if user.is_staff:
        services.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
    return Api(user)


def each_by_itself(names: Iterable[str]) -> Iterator[str]:
    """Each in turn; what was done meanwhile is taken back, so that all are asked in the same world."""
    for name in names:
        with transaction.atomic():
            yield name
            transaction.set_rollback(True)
        cache.clear()


def test_a_stranger_is_sent_away(victim: Victim) -> None:
    for name in each_by_itself(OWN | STAFF | BROWSER):
        answer = victim.ask(Api(), name)
        assert (name, answer.status_code, answer.json()["code"]) == (name, 401, "not_signed_in")


def test_a_banned_person_is_sent_away(victim: Victim) -> None:
    banned = UserFactory()
    one = Api(banned)
    services.ban_user(user=banned, by=None)
    for name in each_by_itself(OWN | STAFF | BROWSER):
        assert (name, victim.ask(one, name).status_code) == (name, 401)


def test_a_token_for_nothing_opens_nothing(victim: Victim) -> None:
    one = Api(UserFactory(role=User.Role.SUPERADMIN), scopes=[])
    for name in each_by_itself(OWN | STAFF):
        answer = victim.ask(one, name)
        assert (name, answer.status_code, answer.json()["code"]) == (name, 403, "scope_missing")


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_another_persons_things_are_neither_seen_nor_changed(victim: Victim, role: str) -> None:
    one = asker(role)
    before = victim.rows()
    secrets = [
        victim.user.email,
        victim.relay.certificate_sha256,
        *victim.rental.devices.values_list("node_key", flat=True),
    ]
    for name in each_by_itself(NAMES):
        answer = victim.ask(one, name)
        text = f"{name}: {answer.status_code} {answer.content.decode()}"
        assert answer.status_code < 500, text
        if name in STAFF:
            assert answer.status_code in {403, 404}, text
        if name not in PUBLIC:
            assert not [secret for secret in secrets if secret in text]
            assert changed(before, victim.rows()) <= {"accounts.KeptAnswer"}, text


def changed(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> set[str]:
    return {table for table in before if before[table] != after[table]}


@pytest.mark.parametrize("role", [User.Role.ADMIN, User.Role.SUPERADMIN])
def test_staff_who_may_see_the_person_are_answered(victim: Victim, role: str) -> None:
    """Not that all goes well: what is refused is refused for another reason."""
    one = asker(role)
    for name in each_by_itself(OWN | STAFF):
        answer = victim.ask(one, name)
        assert answer.status_code not in {401, 405, 500}, f"{name}: {answer.content.decode()}"
        assert answer.status_code != 403 or answer.json()["code"] == "not_allowed", (
            f"{name}: {answer.content.decode()}"
        )


def test_only_public_operations_need_nobody_to_be_signed_in() -> None:
    for name, _method, _path, operation in operations():
        ways = operation.get("security") or [{}]
        assert ({} in ways) == (name in PUBLIC), name


def test_what_is_read_of_oneself_needs_no_more_than_reading(victim: Victim) -> None:
    one = Api(victim.user, scopes=[Scope.READ])
    for name, method, _path, _operation in operations():
        if name in OWN and method == "get":
            assert victim.ask(one, name).status_code in {200, 202, 404, 409, 422}, name
