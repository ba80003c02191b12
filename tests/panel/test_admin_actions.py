"""An action of the admin takes as many rows as a page has: more are refused in a sentence, and nothing is done."""

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client

from accounts.models import User
from derpmgmt.lib.paging import MOST_ROWS
from serials.numbers.models import SerialNumber
from tests.accounts.ticking import confirm, tick
from tests.factories import SerialBatchFactory
from tests.panel import world

pytestmark = pytest.mark.django_db
PAGE = "/admin/serials/serialnumber/"


@pytest.fixture
def boss(db: None) -> Client:
    return world.enter(User.Role.SUPERADMIN, has_factor=True)


def recall(client: Client, serials: list[SerialNumber], *, across: bool) -> Any:
    return tick(client, PAGE, "recall", serials, select_across="1" if across else "0")


def unused() -> int:
    return SerialNumber.objects.filter(status=SerialNumber.Status.UNUSED).count()


@pytest.mark.parametrize("across", [True, False])
def test_more_rows_than_a_page_has_are_refused(boss: Client, across: bool) -> None:
    SerialBatchFactory(count=MOST_ROWS + 1)
    serials = list(SerialNumber.objects.all())
    answer = recall(boss, serials[:1] if across else serials, across=across).content.decode()
    assert f"{MOST_ROWS}" in answer
    assert "一次最多处理" in answer or "rows are done at once" in answer
    assert unused() == MOST_ROWS + 1


@pytest.mark.parametrize("across", [True, False])
def test_as_many_as_a_page_has_are_done(boss: Client, across: bool) -> None:
    SerialBatchFactory(count=3)
    serials = list(SerialNumber.objects.all())
    page = recall(boss, serials[:1] if across else serials, across=across)
    assert unused() == 3
    confirm(boss, page)
    assert unused() == 0


def test_all_lists_with_actions_have_the_limit() -> None:
    from accounts.admin_base import StaffAdmin

    ours = [page for model, page in admin.site._registry.items() if page.actions]
    assert ours
    assert all(isinstance(page, StaffAdmin) for page in ours)


@pytest.mark.parametrize("most", [MOST_ROWS, MOST_ROWS + 1])
def test_an_address_with_too_many_rows_is_refused(boss: Client, most: int) -> None:
    rows = ",".join(map(str, range(1, most + 1)))
    answer = boss.get(f"{PAGE}ticked/recall/do/?rows={rows}", follow=True)
    assert bool(answer.redirect_chain) is (most > MOST_ROWS)


def test_what_changes_something_asks_first() -> None:
    without = {name for page in admin.site._registry.values() for name in page.actions or ()}
    assert without == {"export_csv", "export_xlsx"}, "these show codes, and write that down"
