"""Several servers that stop answering together: one notice for admins, one for their return, and no rash words to customers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from django.utils import translation

from tests.containers.test_outages import (
    MINUTE,
    _Killed,
    answer,
    card_of,
    fail_contact,
    send_all,
    told,
)
from tests.containers.test_outages import test_relay as record_test
from tests.factories import ServerFactory, UserFactory

if TYPE_CHECKING:
    from accounts.models import Notice, User
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
BEGIN = datetime.fromisoformat("2026-11-30T08:00:00+00:00")
SECONDS = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def boss(db: None) -> User:
    from accounts.models import User

    return UserFactory(role=User.Role.ADMIN, language="en")


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(BEGIN, tick=False) as clock:
        yield clock


def sweep() -> None:
    from containers.jobs import sweep_outages

    sweep_outages()


def fail(*servers: Server, times: int = 2) -> None:
    for server in servers:
        for _time in range(times):
            fail_contact(server)


def notices(user: User) -> list[Notice]:
    return list(user.notices.exclude(state="dropped").order_by("pk"))


def named(notice: Notice) -> list[str]:
    return [row["server"] for row in notice.context["servers"]]


def names(*servers: Server) -> list[str]:
    return [server.name for server in servers]


def test_servers_that_fall_silent_together_are_told_in_one_notice(
    servers: list[Server], boss: User, clock: Any
) -> None:
    first, second, third, other = servers
    for server in servers:
        answer(server)
    clock.shift(5 * SECONDS)
    fail(first)
    fail(second, times=1)
    sweep()
    assert told(boss) == {}  # whether the others answer is not known yet
    clock.shift(10 * SECONDS)
    answer(other)
    fail(third)
    sweep()
    assert told(boss) == {}
    fail(second, times=1)
    clock.shift(5 * SECONDS)
    for _time in range(3):
        sweep()
    [notice] = notices(boss)
    assert notice.kind == "servers_silent"
    assert sorted(named(notice)) == sorted(names(first, second, third))
    assert (notice.context["count"], notice.context["is_all"]) == (3, False)


def test_an_outage_of_one_is_told_as_soon_as_the_others_have_answered(
    servers: list[Server], boss: User, clock: Any
) -> None:
    fail(servers[0])
    clock.shift(SECONDS)
    for server in servers[1:]:
        answer(server)
    sweep()
    assert told(boss) == {"server_silent": 1}


def test_nobody_waits_for_ever_for_a_server_of_which_nothing_is_known(
    servers: list[Server], boss: User, clock: Any
) -> None:
    fail(servers[0])
    sweep()
    assert told(boss) == {}
    clock.shift(3 * MINUTE)
    sweep()
    assert told(boss) == {"server_silent": 1}


def test_those_that_follow_are_folded_into_one_more_notice(
    servers: list[Server], boss: User, clock: Any
) -> None:
    first, second, third, other = servers
    fail(first)
    clock.shift(SECONDS)
    for server in servers[1:]:
        answer(server)
    sweep()
    for server in (second, third):
        clock.shift(MINUTE)
        fail(server)
        for answering in servers:
            if answering.pk in {other.pk} | ({third.pk} if server == second else set()):
                answer(answering)
        sweep()
        assert told(boss) == {"server_silent": 1}
    clock.shift(5 * MINUTE)
    answer(other)
    sweep()
    sweep()
    notice = notices(boss)[-1]
    assert told(boss) == {"server_silent": 1, "servers_silent": 1}
    assert (sorted(named(notice)), notice.context["before"]) == (sorted(names(second, third)), 1)


def test_their_return_is_told_in_one_notice(servers: list[Server], boss: User, clock: Any) -> None:
    first, second, third, other = servers
    fail(first, second, third)
    clock.shift(SECONDS)
    answer(other)
    sweep()
    send_all(boss)
    clock.shift(10 * MINUTE)
    for server in (first, second, third):
        answer(server)
        if server != third:
            sweep()
            assert told(boss) == {"servers_silent": 1}
        clock.shift(30 * SECONDS)
    sweep()
    sweep()
    assert told(boss) == {"servers_silent": 1, "servers_back": 1}
    notice = notices(boss)[-1]
    assert (sorted(named(notice)), notice.context["still"]) == (sorted(names(first, second, third)), 0)


def test_a_return_is_told_though_others_stay_away(servers: list[Server], boss: User, clock: Any) -> None:
    first, second, third, other = servers
    fail(first, second, third)
    clock.shift(SECONDS)
    answer(other)
    sweep()
    send_all(boss)
    answer(first)
    answer(second)
    sweep()
    assert told(boss) == {"servers_silent": 1}
    clock.shift(5 * MINUTE)
    sweep()
    assert told(boss) == {"servers_silent": 1, "servers_back": 1}
    notice = notices(boss)[-1]
    assert (sorted(named(notice)), notice.context["still"]) == (sorted(names(first, second)), 1)
    answer(third)
    sweep()
    assert told(boss) == {"servers_silent": 1, "servers_back": 1, "server_back": 1}


def test_a_mass_outage_that_is_over_before_its_notice_left_is_not_told(
    servers: list[Server], boss: User, clock: Any
) -> None:
    fail(*servers[:2])
    clock.shift(3 * MINUTE)
    sweep()
    assert told(boss) == {"servers_silent": 1}
    answer(servers[0])
    assert told(boss) == {"servers_silent": 1}
    answer(servers[1])
    sweep()
    assert told(boss) == {}


@pytest.mark.parametrize("moment", ["log_operation", "notify"])
def test_a_death_while_it_is_told_changes_nothing(
    servers: list[Server], boss: User, clock: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from fleet import outages

    calls = 0
    real = getattr(outages, moment)

    def die_at_the_second(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (2 if moment == "log_operation" else 1):
            raise _Killed
        return real(*args, **kwargs)

    fail(*servers)
    with monkeypatch.context() as patch:
        patch.setattr(outages, moment, die_at_the_second)
        with pytest.raises(_Killed):
            sweep()
    assert told(boss) == {}
    sweep()
    sweep()
    assert told(boss) == {"servers_silent": 1}
    assert len(named(notices(boss)[0])) == 4
    send_all(boss)
    for server in servers:
        answer(server)
    calls = 1
    if moment == "notify":
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(outages, moment, die_at_the_second)
            with pytest.raises(_Killed):
                sweep()
        assert told(boss) == {"servers_silent": 1}
    sweep()
    sweep()
    assert told(boss) == {"servers_silent": 1, "servers_back": 1}


def test_when_all_are_lost_the_notice_suspects_the_panels_own_network(
    servers: list[Server], boss: User, clock: Any
) -> None:
    from accounts.services.notices import render

    fail(*servers)
    sweep()
    [notice] = notices(boss)
    assert notice.context["is_all"]
    words = render(notice)
    assert words.subject == "No server answers: the panel's own network may be cut"
    assert "the panel's own network may be cut" in words.text
    assert all(server.name in words.text and server.name in words.html for server in servers)


def test_an_answer_that_refuses_is_no_sign_of_a_cut_network(
    servers: list[Server], boss: User, clock: Any
) -> None:
    from fleet.services import record_failed_contact
    from fleet.ssh import AuthenticationFailed

    fail(*servers[:3])
    for _time in range(2):
        record_failed_contact(server_pk=servers[3].pk, error=AuthenticationFailed())
    sweep()
    [notice] = notices(boss)
    assert (notice.context["count"], notice.context["is_all"]) == (4, False)


def test_a_long_list_is_cut_and_says_so(boss: User, clock: Any, db: None) -> None:
    from accounts.services.notices import render

    fail(*ServerFactory.create_batch(25, healthy=True))
    sweep()
    [notice] = notices(boss)
    assert (len(named(notice)), notice.context["count"], notice.context["more"]) == (20, 25, 5)
    assert "and 5 more" in render(notice).text


def test_customers_hear_nothing_while_the_panel_reaches_nothing(
    rental: Rental, servers: list[Server], clock: Any
) -> None:
    rows = list(rental.relays.wanted().select_related("server", "rental__user").order_by("slot"))
    for relay in rows:
        record_test(relay, passes=True)
    clock.shift(MINUTE)
    fail(*servers)
    for relay in rows:
        record_test(relay, passes=False)
    card = card_of(rows[0])
    assert card.colour == "orange"
    assert "its own network may be cut" in str(card.sentence)
    for _time in range(4):
        clock.shift(10 * MINUTE)
        sweep()
    assert told(rental.user) == {}
    # It sees again: who is heard now are the relays, and each gets its time.
    for server in servers:
        answer(server)
    sweep()
    clock.shift(SECONDS)
    record_test(rows[0], passes=True)
    record_test(rows[1], passes=True)
    record_test(rows[2], passes=False)
    sweep()
    assert told(rental.user) == {}
    clock.shift(10 * MINUTE)
    sweep()
    [notice] = notices(rental.user)
    assert (notice.kind, notice.context["others"]) == ("relay_silent", 2)


def test_a_relay_that_carries_shows_that_the_network_is_not_cut(
    rental: Rental, servers: list[Server], clock: Any
) -> None:
    rows = list(rental.relays.wanted().select_related("server", "rental__user").order_by("slot"))
    fail(*servers)
    clock.shift(SECONDS)
    record_test(rows[0], passes=True)
    record_test(rows[1], passes=False)
    assert card_of(rows[1]).colour == "red"
    clock.shift(10 * MINUTE)
    sweep()
    assert told(rental.user) == {"relay_silent": 1}


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_mass_notices_are_written_in_both_languages(
    servers: list[Server], boss: User, clock: Any, language: str
) -> None:
    from accounts.models import Notice, User
    from accounts.services.notices import render

    User.objects.update(language=language)
    first, second, third, other = servers
    fail(first, second)
    clock.shift(3 * MINUTE)
    answer(other)
    sweep()
    fail(third)
    fail(other)
    clock.shift(6 * MINUTE)
    sweep()
    send_all(boss)
    answer(first)
    answer(second)
    clock.shift(6 * MINUTE)
    sweep()
    answer(third)
    answer(other)
    sweep()
    assert [notice.kind for notice in notices(boss)] == [
        "servers_silent",
        "servers_silent",
        "servers_back",
        "servers_back",
    ]
    for notice in Notice.objects.filter(user=boss):
        words = render(notice)
        is_english = not any("一" <= letter <= "鿿" for letter in words.subject + words.text.split("http")[0])
        assert is_english == (language == "en"), words.text
        assert "{" not in words.text
        assert "%(" not in words.text
