"""A panel with everything in it once, and people of every role who are signed in to it."""

import time
from collections.abc import Callable

import factory
from allauth.mfa.totp.internal.auth import format_hotp_value, generate_totp_secret, hotp_value
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute
from accounts.brand.models import ONLY_ROW, BrandSettings
from accounts.models import PutOff, User
from acl.devices.models import Admission, Device, DevicePolicy
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion
from containers.models import Deployment, Relay
from serials.rentals.models import Rental
from tests.factories import (
    PASSWORD,
    AdmissionFactory,
    AlertFactory,
    DeviceFactory,
    PutOffFactory,
    UserFactory,
)


def add_devices(rental: Rental, count: int = 1) -> None:
    """So many more devices of each state, seen at the first relay, and a question of each that was refused."""
    relay, now = rental.relays.order_by("pk")[0], timezone.now()
    for status in Device.Status:
        for device in DeviceFactory.create_batch(
            count,
            rental=rental,
            status=status,
            first_seen_at=now,
            last_seen_at=now,
            last_ip=factory.Sequence(lambda n: f"198.51.{n // 250 % 250}.{n % 250 + 1}"),
            last_relay=relay,
        ):
            AdmissionFactory(relay=relay, node_key=device.node_key, ip=device.last_ip, at=now)


def sign_in(user: User, secret: str = "") -> Client:
    """A browser in which `user`, who has `PASSWORD`, has signed in, with the second factor `secret` where there is one."""
    client = Client()
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    if secret:
        code = format_hotp_value(hotp_value(secret, int(time.time()) // 30))
        client.post("/accounts/2fa/authenticate/", {"code": code})
    assert client.session["_auth_user_id"] == str(user.pk)
    return client


def enter(role: str, *, has_factor: bool) -> Client:
    """A browser in which a new person of that role has signed in."""
    user = UserFactory(role=role)
    if not has_factor:
        return sign_in(user)
    secret = generate_totp_secret()
    accounts.enrol_second_factor(user=user, secret=secret)
    return sign_in(user, secret)


def row_of(rental: Rental, model: type[Model]) -> Model:
    """A row of that table, one of `rental` where rows belong to one."""
    if model is BrandSettings:
        return BrandSettings.objects.get_or_create(pk=ONLY_ROW)[0]
    if model is Alert:
        return AlertFactory(customer=rental.user)
    if model is AlertRule:
        return AlertRule.objects.get_or_create(rule="disk")[0]
    if model is AlertRoute:
        return AlertRoute.objects.get_or_create(name="row", by="staff")[0]
    if model is AlertDelivery:
        route = AlertRoute.objects.get_or_create(name="row", by="staff")[0]
        return AlertDelivery.objects.get_or_create(route=route, key="row")[0]
    if model is PutOff:
        return PutOffFactory(row=rental.pk)
    own: dict[type[Model], Callable[[], Model | None]] = {
        Rental: lambda: rental,
        User: lambda: rental.user,
        Relay: rental.relays.first,
        Deployment: Deployment.objects.filter(relay__rental=rental).first,
        MapRegion: rental.map_regions.first,
        AclConfig: rental.acl_configs.first,
        AclEvent: rental.acl_events.first,
        LiveUrl: rental.live_urls.first,
        Device: rental.devices.first,
        DevicePolicy: lambda: rental.device_policy,
        Admission: rental.admissions.first,
    }
    row = (own[model]() if model in own else None) or model._default_manager.first()
    assert row is not None, f"the world has no {model.__name__}"
    return row
