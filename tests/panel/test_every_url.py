"""Every address of the panel, asked for by people of every role: nothing breaks, and nobody sees what is not theirs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertRoute
from accounts.brand import colours
from accounts.models import User
from containers.models import Relay
from serials.rentals.models import Rental
from tests.factories import PutOffFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.styled import missing_classes

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

# What a visitor may open; every other address sends them to the sign-in page.
PUBLIC = {
    "api-docs",
    "api-openapi",
    "front",
    "robots",
    "metrics",
    "mailbox",
    "accounts:account-closed",
    "accounts:language-set",
    "theme-set",
    "serials:serial-redeem",
    "serials:rental-renew",
    "terms",
    "privacy",
    "brand-picture",
    "brand-style",
    "account_login",
    "account_logout",
    "account_signup",
    "account_inactive",
    "account_email_verification_sent",
    "account_reset_password",
    "account_confirm_login_code",
    "account_confirm_password_reset_code",
    "account_complete_password_reset",
    "account_password_reset_completed",
    "mfa_authenticate",
    "mfa_login_webauthn",
}
# What a person of the panel gets where a page is not for them, not there, or not to be opened in this way.
REFUSALS = {302, 400, 403, 404, 405, 409, 429}


@dataclass(frozen=True)
class Address:
    """One URL with its arguments filled in from a customer's rows."""

    name: str
    path: str

    @property
    def is_admin(self) -> bool:
        return self.path.startswith("/admin/")


def patterns(resolver: URLResolver, prefix: str = "", space: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every pattern of the URL conf with its full name."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            inner = f"{space}{pattern.namespace}:" if pattern.namespace else space
            yield from patterns(pattern, prefix + str(pattern.pattern), inner)
        else:
            yield f"{space}{pattern.name}", pattern


def arguments(rental: Rental) -> dict[str, dict[str, Any]]:
    """What addresses that are no ordinary pages of a model are asked for with."""
    server = rental.relays.get(slot=1).server
    relay, region = rental.relays.get(slot=1), rental.map_regions.first()
    serial = rental.redemptions.get().serial
    waiting = rental.devices.filter(status="pending")[0]
    assert region
    assert serial
    return {
        "acl:region-change": {"pk": region.pk},
        **{f"acl:device-{verb}": {"pk": waiting.pk} for verb in ("approve", "ignore", "revoke", "rename")},
        "acl:map-copied": {"file_format": "json"},
        "acl:map-download": {"file_format": "json"},
        "containers:relay-probe": {"pk": relay.pk},
        "containers:relay-graph": {"pk": relay.pk, "name": "rate"},
        "mfa_remove_webauthn": {"pk": 1},
        "mfa_edit_webauthn": {"pk": 1},
        "admin:app_list": {"app_label": "fleet"},
        "brand-style": {"digest": colours.digest("#1a7f5c")},
        "brand-picture": {"digest": "a" * 32, "kind": "png"},
        "history-export": {"kind": "all", "file_format": "csv"},
        # None is there: a test of one would ask a service outside.
        "accounts:token-revoke": {"pk": 1},
        **{f"accounts:channel-{verb}": {"pk": 1} for verb in ("test", "confirm", "remove")},
        "admin:acl_device_act": {"pk": waiting.pk, "verb": "approve"},
        "admin:acl_aclconfig_act": {"pk": rental.acl_configs.get().pk, "verb": "renew"},
        "admin:acl_liveurl_act": {"pk": rental.live_urls.get().pk, "verb": "revoke"},
        "admin:accounts_notice_act": {"pk": rental.user.notices.first().pk, "verb": "again"},
        "admin:accounts_alert_act": {"pk": world.row_of(rental, Alert).pk, "verb": "resolve"},
        "admin:accounts_alertrule_act": {"pk": world.row_of(rental, AlertRule).pk, "verb": "reset"},
        "admin:accounts_alertroute_act": {"pk": world.row_of(rental, AlertRoute).pk, "verb": "remove"},
        "admin:accounts_putoff_act": {"pk": PutOffFactory(row=rental.pk).pk, "verb": "try-now"},
        "admin:serials_serialbatch_codes": {"pk": serial.batch_id},
        "admin:serials_serialbatch_act": {"pk": serial.batch_id, "verb": "mark-unpaid"},
        **{
            f"admin:{model}_ticked": {"verb": verb}
            for model, verb in (
                ("accounts_user", "ban"),
                ("accounts_notice", "again"),
                ("accounts_alert", "resolve"),
                ("serials_serialbatch", "mark-unpaid"),
                ("serials_serialnumber", "recall"),
                ("acl_device", "revoke"),
                ("fleet_server", "start-maintenance"),
            )
        },
        "admin:fleet_server_graph": {"pk": server.pk, "name": "cpu"},
        "admin:containers_relay_graph": {"pk": relay.pk, "name": "rate"},
        "admin:containers_rental_graph": {"pk": rental.pk},
        "admin:containers_customer_rate": {"pk": rental.user_id},
        "admin:acl_admission_strangers": {"pk": rental.user_id},
        "admin:accounts_notice_list_act": {"verb": "mail-test"},
        "admin:accounts_brandsettings_preview": {"page": "front"},
        "admin:accounts_user_act": {"pk": rental.user_id, "verb": "ban"},
        "admin:serials_serialnumber_act": {"pk": serial.pk, "verb": "reveal"},
        "admin:serials_rental_act": {"pk": rental.pk, "verb": "pause"},
        "admin:fleet_server_host_key": {"pk": server.pk},
        "admin:fleet_server_host_key_read": {"pk": server.pk},
        "admin:fleet_server_act": {"pk": server.pk, "verb": "start-maintenance"},
        "admin:containers_relay_act": {"pk": relay.pk, "verb": "probe"},
        "admin:containers_gate_act": {"pk": server.gate.pk, "verb": "retry"},
        "admin:containers_server_check": {"pk": server.pk},
        "admin:containers_server_check_live": {"pk": server.pk},
    }


@pytest.fixture
def rental(db: None) -> Rental:
    rental = WholeRentalFactory()
    world.add_devices(rental)
    return rental


@pytest.fixture
def addresses(rental: Rental) -> list[Address]:
    """Every address; fails for one that nobody has said the arguments of."""
    known = arguments(rental)
    models = {
        f"admin:{model._meta.app_label}_{model._meta.model_name}": model for model in admin.site._registry
    }
    found = []
    for name, pattern in patterns(get_resolver()):
        if name == "admin:None":  # the last resort of the admin, for what has no name
            found.append(Address(name, "/admin/nowhere/"))
            continue
        values = known.get(name, {})
        stem = name.rpartition("_")[0]
        if "object_id" in pattern.pattern.converters and stem in models:
            values = {"object_id": world.row_of(rental, models[stem]).pk}
        elif pattern.name is None:  # the old addresses of change pages
            values = {"object_id": 1}
        assert values or not pattern.pattern.converters, f"say in arguments() what {name} is asked for with"
        found.append(Address(name, reverse(name, kwargs=values)))
    assert len({address.name for address in found}) > 90
    return found


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Sends a request as the person of `client` and undoes what it did to the rows, so to their session too."""

    def send(client: Client, address: Address, method: str, **options: Any) -> Any:
        kept = client.cookies["sessionid"].value if "sessionid" in client.cookies else None
        with transaction.atomic():
            response = getattr(client, method)(address.path, **options)
            transaction.set_rollback(True)
        if kept is not None:
            client.cookies["sessionid"] = kept
        return response

    return send


def test_a_visitor_is_sent_to_sign_in_wherever_it_is_not_public(addresses: list[Address], ask: Any) -> None:
    assert {address.name for address in addresses} >= PUBLIC
    for address in addresses:
        for method in ("get", "post"):
            response = ask(Client(), address, method)
            where = f"{method} {address.name} {response.status_code}"
            if address.name in PUBLIC:
                assert response.status_code in {200} | REFUSALS, where
                continue
            assert response.status_code == 302, where
            # The admin's own sign-out leads to its start page, and that to the door.
            doors = ("/accounts/login/", "/admin/" if address.name == "admin:logout" else "/admin/login/")
            assert response["Location"].startswith(doors), where


def test_pages_that_a_visitor_may_read_are_shown_to_him(addresses: list[Address], ask: Any) -> None:
    shown = {address.name for address in addresses if ask(Client(), address, "get").status_code == 200}
    assert {
        "front",
        "account_login",
        "account_signup",
        "serials:serial-redeem",
        "account_reset_password",
    } <= shown


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_the_admin_is_shut_when_a_customer_or_distributor_tries(
    addresses: list[Address], ask: Any, role: str
) -> None:
    client = world.enter(role, has_factor=False)
    for address in addresses:
        if address.is_admin:
            for method in ("get", "post"):
                response = ask(client, address, method, follow=True)
                where = f"{method} {address.name} {response.status_code}"
                # Two lead back to a person's own pages: out of the panel, and to their password.
                is_own = address.name in {
                    "admin:logout",
                    "admin:password_change",
                    "admin:password_change_done",
                }
                assert response.status_code == 403 or is_own, where


@pytest.mark.parametrize("role", [User.Role.ADMIN, User.Role.SUPERADMIN])
def test_the_admin_is_shut_when_staff_have_no_second_factor(
    addresses: list[Address], ask: Any, role: str
) -> None:
    client = world.enter(role, has_factor=False)
    for address in addresses:
        if address.is_admin:
            for method in ("get", "post"):
                response = ask(client, address, method)
                assert response.status_code == 302, f"{method} {address.name} {response.status_code}"


@pytest.mark.parametrize("role", [User.Role.ADMIN, User.Role.SUPERADMIN])
def test_every_page_of_the_admin_opens_when_staff_come_with_a_second_factor(
    addresses: list[Address], ask: Any, role: str
) -> None:
    client = world.enter(role, has_factor=True)
    for address in addresses:
        response = ask(client, address, "get")
        where = f"{address.name} {response.status_code}"
        assert response.status_code in {200} | REFUSALS, where
        is_page = (
            address.name.endswith(("_changelist", "_change", "_history")) or address.name == "admin:index"
        )
        if address.is_admin and is_page and "password" not in address.name:
            assert response.status_code == 200, where
        assert ask(client, address, "post").status_code in {200} | REFUSALS, f"post {where}"


def test_the_customers_own_pages_open_when_he_asks(
    addresses: list[Address], rental: Rental, ask: Any
) -> None:
    client = world.sign_in(rental.user)
    opened = set()
    for address in addresses:
        if not address.is_admin:
            for method in ("get", "post"):
                response = ask(client, address, method)
                assert response.status_code in {200, 204} | REFUSALS, f"{method} {address.name}"
                if method == "get" and response.status_code == 200:
                    opened.add(address.name)
    assert {
        "front",
        "home",
        "home-relays",
        "home-map",
        "history",
        "history-export",
        "accounts:account-show",
        "accounts:token-list",
        "serials:serial-redeem",
        "acl:map-howto",
        "acl:map-history",
        "acl:map-download",
        "home-devices",
        "acl:device-list",
        "acl:device-state",
        "acl:device-lists",
        "acl:device-revoke",
        "acl:place-give",
        "acl:checking-stop",
        "acl:verify-show",
        "acl:admission-list",
        "account_email",
        "account_change_password",
        "mfa_index",
        "usersessions_list",
    } <= opened


def test_whatever_a_page_uses_of_tabler_is_in_its_stylesheet(
    addresses: list[Address], rental: Rental, ask: Any
) -> None:
    seen = set()
    for client in (Client(), world.sign_in(rental.user)):
        for address in addresses:
            for method in ("get", "post"):
                response = ask(client, address, method)
                if not address.is_admin and response["Content-Type"].startswith("text/html"):
                    seen.add(address.name)
                    assert not missing_classes(response.content.decode()), f"{method} {address.name}"
    assert len(seen) > 40


def test_another_customers_rows_are_not_there(rental: Rental, addresses: list[Address], ask: Any) -> None:
    paths = {address.name: address for address in addresses}
    client = world.sign_in(WholeRentalFactory().user)
    foreign = [f"acl:device-{verb}" for verb in ("approve", "ignore", "revoke", "rename")]
    for name in ("acl:region-change", "containers:relay-probe", *foreign):
        assert ask(client, paths[name], "post", data={"region_id": "950"}).status_code == 404, name
        own = ask(world.sign_in(rental.user), paths[name], "post", data={"region_id": "950"})
        assert own.status_code == 302, name
    pages = (
        "home",
        "home-relays",
        "home-map",
        "history",
        "history-export",
        "acl:map-history",
        "acl:map-howto",
        "acl:live-show",
        "acl:map-download",
        "home-devices",
        "acl:device-list",
        "acl:device-lists",
        "acl:admission-list",
    )
    keys = list(rental.devices.values_list("node_key", flat=True))
    for name in pages:
        text = ask(client, paths[name], "get").content.decode()
        assert not [key for key in keys if key in text], name
        for relay in Relay.objects.filter(rental=rental).select_related("server"):
            assert relay.server.address not in text, name
            assert relay.certificate_sha256 not in text, name


def test_nothing_of_a_map_is_given_when_a_person_has_no_rental(addresses: list[Address], ask: Any) -> None:
    paths = {address.name: address for address in addresses}
    client = world.enter(User.Role.USER, has_factor=False)
    assert ask(client, paths["acl:map-download"], "get").status_code == 403
    assert ask(client, paths["acl:map-copied"], "post", data={"shown": "1"}).status_code == 403
    assert ask(client, paths["home"], "get").status_code == 200


def test_every_table_that_people_see_is_in_the_admin_or_left_out_on_purpose() -> None:
    ours = {"accounts", "serials", "fleet", "containers", "acl"}
    missing = {model.__name__ for model in apps.get_models() if model._meta.app_label in ours} - {
        model.__name__ for model in admin.site._registry
    }
    # A test is shown with its relay, an outage with its server's activity, a token with its person; where a person's messages go
    # concerns no admin, and what is kept of requests and codes is hashes and secrets. A picture is shown where it is used.
    # Traffic and samples are shown at their relays, customers and servers.
    assert missing == {
        "RelayHealth", "Channel", "Blindness", "ApiToken", "KeptAnswer", "SignUpCode", "BrandPicture",
        "HourDue", "LoadSample", "LoadHour", "RelaySample", "RelaySampleHour", "ClientLatency",
        "AlertTelling",
        "TrafficCounter", "TrafficDay", "TrafficError", "TrafficGrant", "TrafficHour", "TrafficMonth", "TrafficServerMonth",
    }  # fmt: skip
