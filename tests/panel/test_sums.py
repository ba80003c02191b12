"""Statements that are made without the ORM do what they say, in the database of this run."""

from datetime import UTC, date, datetime, timedelta

import pytest

from containers.models import TrafficCounter, TrafficDay
from derpmgmt.lib.sums import add_to_sums, move_rows, set_row
from fleet.models import Server
from tests.factories import RelayFactory, ServerFactory

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 30, 12, 0, 10, 250_000, tzinfo=UTC)


def test_rows_move_only_from_what_they_were() -> None:
    relay = RelayFactory()
    rows = [
        TrafficCounter.objects.create(
            relay=relay, epoch=f"e{number}", received_bytes=number, sent_bytes=5, uptime=1.5, read_at=AT
        )
        for number in range(3)
    ]
    later = AT + timedelta(seconds=15)

    def move(*expected: tuple[int, int]) -> int:
        return move_rows(
            TrafficCounter,
            [
                (row.pk, old, (100 + at, 50 + at, 2.25, later))
                for at, (row, old) in enumerate(zip(rows, expected, strict=True))
            ],
            expected=("received_bytes", "sent_bytes"),
            moved=("received_bytes", "sent_bytes", "uptime", "read_at"),
        )

    # The second was moved by somebody else meanwhile.
    assert move((0, 5), (7, 5), (2, 5)) == 2
    found = list(
        TrafficCounter.objects.order_by("pk").values_list("received_bytes", "sent_bytes", "uptime", "read_at")
    )
    assert found == [(100, 50, 2.25, later), (1, 5, 1.5, AT), (102, 52, 2.25, later)]
    # What already has its new values is counted as well, whatever the database calls a change.
    assert move((100, 50), (1, 5), (102, 52)) == 3


def test_sums_grow_and_begin() -> None:
    first, second = RelayFactory(), RelayFactory()
    days = (date(2026, 11, 30), date(2026, 12, 1))
    for relays in ([first], [first, second]):
        add_to_sums(
            TrafficDay,
            [{"relay": relay.pk, "day": days[1], "up_bytes": 2**40, "down_bytes": 3} for relay in relays],
            key=("relay", "day"),
            added=("up_bytes", "down_bytes"),
        )
    add_to_sums(TrafficDay, [], key=("relay", "day"), added=("up_bytes",))
    found = TrafficDay.objects.order_by("relay").values_list("relay", "day", "up_bytes", "down_bytes")
    assert list(found) == [(first.pk, days[1], 2**41, 6), (second.pk, days[1], 2**40, 3)]


def test_a_row_is_set_and_added_to() -> None:
    server, other = ServerFactory.create_batch(2)
    Server.objects.filter(pk=server.pk).update(memory_bytes=40)
    values = {"last_visit_at": AT, "cpu_share": None, "docker_version": "it's 100 %", "load_ratio": 0.5}
    assert set_row(Server, {"id": server.pk}, values, added={"memory_bytes": 2}) == 1
    server.refresh_from_db()
    assert {name: getattr(server, name) for name in values} == values
    assert server.memory_bytes == 42
    other.refresh_from_db()
    assert other.last_visit_at is None
    assert set_row(Server, {"id": 0}, values) == 0
