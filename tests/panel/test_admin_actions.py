"""An action of the admin takes as many rows as a page has: more are refused in a sentence, and nothing is done."""

from collections.abc import Callable

import pytest
from django.contrib import admin
from django.test import Client

from accounts.models import User
from derpmgmt.lib.paging import MOST_ROWS
from serials.numbers.models import SerialNumber
from serials.numbers.services import create_batch
from tests.accounts.conftest import make_user, sign_in, sign_in_with_factor  # noqa: F401

pytestmark = pytest.mark.django_db
PAGE = "/admin/serials/serialnumber/"


@pytest.fixture
def boss(
    make_user: Callable[..., User],  # noqa: F811
    sign_in_with_factor: Callable[..., Client],  # noqa: F811
) -> Client:
    return sign_in_with_factor(make_user(role=User.Role.SUPERADMIN))


def recall(client: Client, pks: list[int], *, across: bool) -> str:
    data = {"action": "recall", "select_across": "1" if across else "0", "_selected_action": pks}
    return client.post(PAGE, data, follow=True).content.decode()


def unused() -> int:
    return SerialNumber.objects.filter(status=SerialNumber.Status.UNUSED).count()


@pytest.mark.parametrize("across", [True, False])
def test_more_rows_than_a_page_has_are_refused(boss: Client, across: bool) -> None:
    create_batch(name="b", days=30, count=MOST_ROWS + 1, by=None, is_paid=True)
    pks = list(SerialNumber.objects.values_list("pk", flat=True))
    answer = recall(boss, pks[:1] if across else pks, across=across)
    assert f"{MOST_ROWS}" in answer
    assert "一次最多处理" in answer or "rows are done at once" in answer
    assert unused() == MOST_ROWS + 1


@pytest.mark.parametrize("across", [True, False])
def test_as_many_as_a_page_has_are_done(boss: Client, across: bool) -> None:
    create_batch(name="b", days=30, count=3, by=None, is_paid=True)
    pks = list(SerialNumber.objects.values_list("pk", flat=True))
    recall(boss, pks, across=across)
    assert unused() == 0


def test_all_lists_with_actions_have_the_limit() -> None:
    from accounts.admin_base import StaffAdmin

    ours = [page for model, page in admin.site._registry.items() if page.actions]
    assert ours
    assert all(isinstance(page, StaffAdmin) for page in ours)
