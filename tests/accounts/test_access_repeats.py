"""Requests with an Idempotency-Key: done once, answered as often as they come."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import close_old_connections, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import RequestFactory
from django.utils import timezone

from accounts.access.models import KeptAnswer
from accounts.access.repeats import KeyUsed, WrongKey, answer_once
from accounts.models import Channel, User
from tests.factories import ChannelFactory, UserFactory

pytestmark = pytest.mark.django_db


def request_of(user: User, key: str | None = "k-1", body: Any = None, path: str = "/api/v1/x") -> HttpRequest:
    headers = {} if key is None else {"Idempotency-Key": key}
    raw = body if isinstance(body, bytes) else json.dumps(body)
    request = RequestFactory().post(path, raw, content_type="application/json", headers=headers)
    request.user = user
    return request


def making(user: User, status: int = 200) -> Callable[[], HttpResponse]:
    """Makes a channel each time it is done, and answers with its number."""

    def do() -> HttpResponse:
        channel = ChannelFactory(user=user, address=f"bark://{Channel.objects.count()}")
        return JsonResponse({"made": channel.pk, "secret": "plain-words"}, status=status)

    return do


def test_the_same_request_is_done_once_and_answered_alike() -> None:
    user = UserFactory()
    first = answer_once(request_of(user, body={"a": 1, "b": 2}), making(user, status=202))
    second = answer_once(request_of(user, body={"b": 2, "a": 1}), making(user))
    assert (second.status_code, second.content) == (first.status_code, first.content) == (202, first.content)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert Channel.objects.count() == 1


def test_without_a_key_each_is_done() -> None:
    user = UserFactory()
    for _ in range(2):
        answer_once(request_of(user, None), making(user))
    assert Channel.objects.count() == 2
    assert not KeptAnswer.objects.exists()


@pytest.mark.parametrize(
    "other",
    [{"body": {"a": 2}}, {"path": "/api/v1/y"}, {"path": "/api/v1/x?wait=1"}, {"body": b"\xff"}],
)
def test_another_request_with_the_key_is_refused(other: dict[str, Any]) -> None:
    user = UserFactory()
    answer_once(request_of(user, body={"a": 1}), making(user))
    with pytest.raises(KeyUsed):
        answer_once(request_of(user, **{"body": {"a": 1}, **other}), making(user))
    assert Channel.objects.count() == 1


def test_the_same_key_of_somebody_else_is_another() -> None:
    for user in UserFactory.create_batch(2):
        answer_once(request_of(user), making(user))
    assert Channel.objects.count() == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
def test_what_is_no_key_is_refused(key: str) -> None:
    user = UserFactory()
    with pytest.raises(WrongKey):
        answer_once(request_of(user, key), making(user))
    assert not Channel.objects.exists()


def test_it_counts_for_a_day() -> None:
    user, now = UserFactory(), timezone.now()
    answer_once(request_of(user), making(user))
    with time_machine.travel(now + timedelta(hours=23), tick=False):
        answer_once(request_of(user), making(user))
    assert Channel.objects.count() == 1
    with time_machine.travel(now + timedelta(hours=25), tick=False):
        answer_once(request_of(user), making(user))
    assert Channel.objects.count() == 2


def test_a_failure_is_not_kept_and_leaves_nothing() -> None:
    user = UserFactory()
    failed = answer_once(request_of(user), making(user, status=409))
    assert failed.status_code == 409
    assert not Channel.objects.exists()

    def fall() -> HttpResponse:
        making(user)()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer_once(request_of(user), fall)
    assert not Channel.objects.exists()
    assert not KeptAnswer.objects.exists()
    answer_once(request_of(user), making(user))
    assert Channel.objects.count() == 1


def test_the_kept_answer_cannot_be_read_in_the_table() -> None:
    user = UserFactory()
    answer_once(request_of(user), making(user))
    with connection.cursor() as cursor:
        cursor.execute("SELECT body FROM accounts_keptanswer")
        [body] = cursor.fetchone()
    assert body
    assert "plain-words" not in body


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_is_done_and_all_get_its_answer() -> None:
    user = UserFactory()
    answers: list[HttpResponse] = []
    gate = threading.Barrier(6)

    def ask() -> None:
        gate.wait()
        try:
            answers.append(answer_once(request_of(user), making(user)))
        finally:
            close_old_connections()
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Channel.objects.count() == 1
    assert len({answer.content for answer in answers}) == 1
    assert len(answers) == 6
