"""When somebody was last seen in a session is said, and costs a write in some minutes, not one with every request."""

from datetime import timedelta

import pytest
from allauth.usersessions.models import UserSession
from django.db import DatabaseError, connection
from django.db.models import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from accounts.seen import SEEN_EVERY
from derpmgmt.lib.kept import Kept
from tests.factories import PASSWORD, UserFactory, WholeRentalFactory

pytestmark = pytest.mark.django_db


def sign_in(user: User, address: str = "192.0.2.1") -> Client:
    client = Client(REMOTE_ADDR=address, headers={"User-Agent": "curl/8.5.0"})
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    return client


def turn_back(user: User, since: timedelta) -> None:
    """As if nobody had been there for that long, and this process had just started."""
    UserSession.objects.filter(user=user).update(last_seen_at=timezone.now() - since)
    Kept.forget_all()


def writes_of(client: Client, url: str) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return [query["sql"] for query in queries if "usersession" in query["sql"] and "UPDATE" in query["sql"]]


def test_sessions_say_when_somebody_was_last_seen_in_them() -> None:
    user = UserFactory(language="en")
    here = sign_in(user)
    sign_in(user)
    turn_back(user, timedelta(hours=3))
    text = here.get("/accounts/sessions/").content.decode()
    assert text.count("last seen") == 1  # of the other: this one is seen now
    assert "last seen 3 hours ago" in text


def test_it_is_written_once_in_some_minutes_with_the_address_of_then() -> None:
    user = UserFactory()
    client = sign_in(user)
    turn_back(user, timedelta(hours=3))
    client.defaults["REMOTE_ADDR"] = "198.51.100.7"
    assert len(writes_of(client, "/account/")) == 1
    session = UserSession.objects.get(user=user)
    assert timezone.now() - session.last_seen_at < timedelta(minutes=1)
    assert session.ip == "198.51.100.7"
    assert not [sql for _ in range(3) for sql in writes_of(client, "/account/")]
    # Another process asks, and finds that it was written a moment ago.
    Kept.forget_all()
    client.defaults["REMOTE_ADDR"] = "203.0.113.9"
    client.get("/account/")
    session.refresh_from_db()
    assert session.ip == "198.51.100.7"


def test_a_home_page_has_ten_queries_when_its_process_has_just_started() -> None:
    rental = WholeRentalFactory()
    client = sign_in(rental.user)
    client.get("/home/")
    turn_back(rental.user, SEEN_EVERY * 2)
    with CaptureQueriesContext(connection) as queries:
        client.get("/home/")
    assert len(queries) <= 10, [query["sql"][:120] for query in queries]


def test_a_page_is_there_where_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    user = UserFactory()
    client = sign_in(user)
    turn_back(user, timedelta(hours=3))
    update = QuerySet.update

    def refuse(rows: QuerySet[UserSession], **values: object) -> int:
        if "last_seen_at" in values and rows.model is UserSession:
            raise DatabaseError("locked")
        return update(rows, **values)

    monkeypatch.setattr(QuerySet, "update", refuse)
    assert client.get("/account/").status_code == 200


def test_visitors_cost_nothing() -> None:
    with CaptureQueriesContext(connection) as queries:
        Client().get("/accounts/login/")
    assert not [query for query in queries if "usersession" in query["sql"]]
