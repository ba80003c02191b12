"""What the tests of closing share: closing by the page, the jobs that follow, and what can be looked at afterwards."""

from typing import Any

from django.apps import apps
from django.test import Client
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services import closing
from acl.maps.services.regions import LETS_GO_AFTER
from containers.models import Relay
from containers.services.planning import plan_relays
from containers.services.relays import record_released
from derpmgmt import flow
from serials.rentals.models import Rental
from tests.accounts.conftest import send_notices
from tests.factories import PASSWORD


def confirm(client: Client) -> None:
    """Type the password again, as allauth asks for before what cannot be undone."""
    response = client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert response.status_code == 302


def close_by_page(client: Client) -> Any:
    return client.post("/account/close/", {"is_sure": "on"})


def do_jobs(user: User, *, are_hosts_there: bool = True) -> None:
    """What `account_closing` rings for, the relays' removal, and what the sweep rings for again once their regions may go."""
    _ring(user)
    for rental in Rental.objects.filter(user=user):
        plan_relays(rental_pk=rental.pk)
    if are_hosts_there:
        for relay in Relay.objects.filter(rental__user=user, status=Relay.Status.REMOVING):
            record_released(relay=relay, now=timezone.now() - LETS_GO_AFTER)
        _ring(user)
    send_notices()
    closing.sweep_closing(now=timezone.now())


def _ring(user: User) -> None:
    for job in flow.JOBS["account_closing"]:
        job(user.pk)


def told(user: User, kind: str = "account_closing") -> int:
    return Notice.objects.filter(user=user, kind=kind, channel=Notice.By.EMAIL).count()


def everything() -> str:
    """All rows of all tables as one text, what is encrypted in the clear."""
    rows = []
    for model in apps.get_models(include_auto_created=True):
        if not model._meta.managed:
            continue
        for row in model._default_manager.all():
            values = {field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}
            if model._meta.label == "sessions.Session":
                values["session_data"] = row.get_decoded()
            rows.append(f"{model._meta.label} {values}")
    return "\n".join(rows).lower()
