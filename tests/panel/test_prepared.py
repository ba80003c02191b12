"""Queries whose SQL is made once give what they would give when they are made each time."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Count, F, Q
from django.utils import timezone

from accounts.models import Notice, User
from derpmgmt.lib.prepared import Prepared
from tests.factories import NoticeFactory, UserFactory

pytestmark = pytest.mark.django_db


def test_dictionaries_are_those_of_the_query_itself(django_assert_num_queries: Any) -> None:
    for user in UserFactory.create_batch(3):
        NoticeFactory(user=user, kind="x", key="k", context={"url": "/x", "at": timezone.now()})

    def build(number: int, owner: int, since: Any) -> Any:
        rows = Notice.objects.filter(Q(user=owner) | Q(user__lt=owner), created_at__gt=since)
        shown = rows.annotate(name=F("user__username"), many=Count("user__notices"))
        return shown.order_by("-pk").values("id", "created_at", "context", "sent_at", "name", "many")[:number]

    query, since = Prepared(build), timezone.now() - timedelta(hours=1)
    owners = list(User.objects.order_by("pk").values_list("pk", flat=True))
    for number in (1, 2):
        for owner in owners:
            with django_assert_num_queries(1):
                found = query.read(number, owner=owner, since=since)
            assert found == list(build(number, owner, since))
    assert query.read(2, owner=owners[0], since=timezone.now() + timedelta(hours=1)) == []


def test_whole_rows_are_objects_of_their_model() -> None:
    users = UserFactory.create_batch(2)
    query = Prepared(lambda pk: User.objects.filter(pk=pk))
    for user in users:
        [found] = query.read(pk=user.pk)
        assert found == user
        assert {name: value for name, value in vars(found).items() if name != "_state"} == {
            name: value for name, value in vars(User.objects.get(pk=user.pk)).items() if name != "_state"
        }
        assert found.is_authenticated


def test_what_is_selected_of_related_rows_comes_along(django_assert_num_queries: Any) -> None:
    about = UserFactory()
    NoticeFactory(user=UserFactory(), kind="x", key="k", context={})
    NoticeFactory(user=about, kind="x", key="l", context={})

    def build(pk: int) -> Any:
        return (
            Notice.objects.filter(user__gte=pk)
            .select_related("user")
            .defer("context", "user__password")
            .annotate(many=Count("user__notices"))
            .order_by("pk")
        )

    query = Prepared(build)
    query.read(pk=about.pk)
    with django_assert_num_queries(1):
        found = query.read(pk=about.pk)
        shown = [(row.pk, row.key, row.user.email, row.many) for row in found]
    assert shown == [(row.pk, row.key, row.user.email, row.many) for row in build(about.pk)]
    assert [row.get_deferred_fields() for row in found] == [{"context"}, {"context"}]
    assert found[0].user.get_deferred_fields() == {"password"}


def test_a_value_that_the_query_leaves_out_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="other"):
        Prepared(lambda pk, other: User.objects.filter(pk=pk)).read(pk=1, other=2)  # noqa: ARG005


def test_texts_are_found_as_they_are_written() -> None:
    names = ["o'hara", "100%", 'a "b" \\ c', "林"]
    users = {name: UserFactory(last_name=name) for name in names}
    query = Prepared(lambda name, below: User.objects.filter(last_name=name, pk__lt=below))
    for name, user in users.items():
        assert query.read(name=name, below=10**9) == [user]
    assert query.read(name="", below=10**9) == list(User.objects.filter(last_name=""))
    assert query.read(name="x", below=10**9) == []
