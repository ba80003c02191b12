"""Commands that show operators what the panel knows, page by page, and the few that change something beside it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from accounts.models import OperationLog, User
from accounts.services import close_account, finish_closing, log_operation
from acl.devices import services as devices
from acl.maps.models import LiveUrl
from derpmgmt.lib.commands import describe_error
from fleet.models import Server
from serials.numbers import codes
from serials.numbers import services as serials
from serials.numbers.models import SerialNumber
from tests.factories import (
    RedeemedRentalFactory,
    RelayFactory,
    RelayHealthFactory,
    RentalFactory,
    SerialBatchFactory,
    ServerCheckFactory,
    ServerFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def rows(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json")[0])


def refused(*arguments: str) -> dict[str, Any]:
    with pytest.raises(CommandError) as error:
        call_command(*arguments, stdout=StringIO(), stderr=StringIO())
    return describe_error(error.value) | {"returncode": error.value.returncode}


def emails(*arguments: str) -> list[str]:
    return [row["email"].partition("@")[0] for row in rows("user_list", *arguments)]


# user_list


def test_accounts_are_found_by_role_state_and_words() -> None:
    for name, role in (("anna", "user"), ("boris", "distributor"), ("chen", "superadmin")):
        UserFactory(email=f"{name}@example.com", role=role)
    UserFactory(email="dora@example.com", banned_at=timezone.now())
    assert emails() == ["dora", "chen", "boris", "anna"]
    assert emails("--role", "distributor", "superadmin") == ["chen", "boris"]
    assert emails("--state", "banned") == ["dora"]
    assert emails("ANN") == ["anna"]
    table = run("user_list", "boris")[0].splitlines()
    assert table[0].split()[:3] == ["ID", "E-mail", "address"]
    assert "distributor" in table[1]
    assert len(table) == 2


def test_a_closed_account_is_found_by_the_address_it_had() -> None:
    user = UserFactory(email="gone@example.com")
    close_account(user=user, by=None, reason="")
    finish_closing(user_pk=user.pk, now=timezone.now())
    assert [row["id"] for row in rows("user_list", "Gone@example.com")] == [user.pk]
    assert rows("user_list", "someone@example.com") == []


@pytest.mark.parametrize("command", ["user_list", "serial_list", "activity_log"])
def test_a_list_reads_one_page_and_says_where_the_next_begins(command: str) -> None:
    SerialBatchFactory(count=7)
    for number in range(7):
        log_operation(by=UserFactory(), action="user.signed_in", target=str(number))
    seen: list[int] = []
    more: list[str] = []
    while True:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            out, err = run(command, "--limit", "3", "--json", *more)
        assert len(asked) == 1
        assert "LIMIT 4" in asked[0]["sql"]
        page = [row["id"] for row in json.loads(out)]
        assert page
        seen += page
        if not err:
            break
        assert f"--before {page[-1]} " in err
        more = ["--before", str(page[-1])]
    assert seen == sorted(seen, reverse=True)
    model: Any = {"user_list": User, "serial_list": SerialNumber, "activity_log": OperationLog}[command]
    assert seen == list(model.objects.order_by("-pk").values_list("pk", flat=True))


@pytest.mark.parametrize(
    "wrong", [["--limit", "0"], ["--limit", "x"], ["--limit", "9" * 30], ["--before", "-1"]]
)
def test_a_page_that_is_none_is_refused(wrong: list[str]) -> None:
    told = refused("user_list", *wrong)
    assert "whole number" in told["message"]


# serial_list, serial_recall


def test_serial_numbers_are_found_by_batch_state_and_words() -> None:
    spring = SerialBatchFactory(name="spring", count=2, days=7)
    SerialBatchFactory(name="autumn", count=1, is_paid=False)
    customer = UserFactory(email="anna@example.com")
    first, second = spring.serials.order_by("pk")
    serials.redeem_serial(code=first.code, user=customer, by=customer)
    assert [row["batch"] for row in rows("serial_list")] == ["autumn", "spring", "spring"]
    for name in ("spring", str(spring.pk)):
        assert [row["id"] for row in rows("serial_list", "--batch", name)] == [second.pk, first.pk]
    assert [row["id"] for row in rows("serial_list", "--batch", "spring", "--status", "used")] == [first.pk]
    for text in (codes.group(first.code).lower(), "anna@"):
        assert [(row["id"], row["email"], row["days"]) for row in rows("serial_list", text)] == [
            (first.pk, customer.email, 7)
        ]
    assert refused("serial_list", "--batch", "winter")["code"] == "no_batch"


def test_no_whole_code_is_listed() -> None:
    batch = SerialBatchFactory(count=3)
    for out in (run("serial_list")[0], run("serial_list", "--json")[0]):
        for serial in batch.serials.all():
            assert serial.masked in out
            assert serial.code not in out.replace("-", "")


def test_a_serial_number_is_recalled_and_logged_as_by_the_admin() -> None:
    serial = SerialBatchFactory().serials.get()
    (row,) = rows("serial_recall", codes.group(serial.code), "--yes")
    assert (row["id"], row["status"], row["is_recalled"]) == (serial.pk, "recalled", True)
    line = OperationLog.objects.get(action="serial.recalled")
    assert (line.actor, line.target, line.detail) == (None, serial.masked, {"batch": serial.batch_id})
    with pytest.raises(serials.SerialRecalled):
        serials.find_serial(serial.code)


def test_what_cannot_be_recalled_says_why_before_anybody_is_asked() -> None:
    customer = UserFactory()
    used, recalled = (SerialBatchFactory().serials.get() for _number in range(2))
    serials.redeem_serial(code=used.code, user=customer, by=customer)
    serials.recall_serial(serial=recalled, by=None)
    for code, expected in (
        (used.code, "used"),
        (recalled.code, "recalled"),
        (codes.generate(), "unknown"),
        ("ABCD", "mistyped"),
    ):
        assert refused("serial_recall", code)["code"] == expected
    assert OperationLog.objects.filter(action="serial.recalled").count() == 1


def test_nothing_is_recalled_when_nobody_confirms_it_or_one_code_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = SerialBatchFactory(count=2)
    good = [serial.code for serial in batch.serials.all()]
    assert refused("serial_recall", *good)["code"] == "not_confirmed"
    assert refused("serial_recall", *good, codes.generate(), "--yes")["code"] == "unknown"
    monkeypatch.setattr("sys.stdin", StringIO("\n"))
    assert refused("serial_recall", "-", "--yes")["code"] == "mistyped"
    assert set(batch.serials.values_list("status", flat=True)) == {"unused"}


def test_of_several_codes_those_are_recalled_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, customer = SerialBatchFactory(count=3), UserFactory()
    used, *others = batch.serials.order_by("pk")
    serials.redeem_serial(code=used.code, user=customer, by=customer)
    lines = "".join(f"{codes.group(serial.code)}\n" for serial in (used, *others, others[0]))
    monkeypatch.setattr("sys.stdin", StringIO(lines))
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command("serial_recall", "-", "--yes", "--json", stdout=out, stderr=StringIO())
    told = describe_error(error.value)
    assert (told["code"], told["details"]) == ("not_recalled", {"serials": [used.masked]})
    assert [(row["id"], row["status"]) for row in json.loads(out.getvalue())] == [
        (used.pk, "used"),
        *((serial.pk, "recalled") for serial in others),
    ]


# activity_log


def log_ids(*arguments: str) -> list[int]:
    return [row["id"] for row in rows("activity_log", *arguments)]


def test_lines_of_the_log_are_found_by_person_action_and_time() -> None:
    anna, admin = UserFactory(email="anna@example.com"), UserFactory(role="admin")
    OperationLog.objects.all()._raw_delete(using="default")
    signed_in = log_operation(by=anna, action="user.signed_in", target=anna, subject=anna, ip="203.0.113.7")
    recalled = log_operation(by=admin, action="serial.recalled", target="••••-ABCD", batch=3)
    failed = log_operation(by=None, action="serial.refused", subject=anna, is_success=False)
    old = log_operation(by=admin, action="user.banned", target=anna, subject=anna)
    OperationLog.objects.filter(pk=old.pk).update(at=timezone.now() - timedelta(days=3))
    assert log_ids() == [old.pk, failed.pk, recalled.pk, signed_in.pk]
    assert log_ids("--by", "ANNA@example.com") == [signed_in.pk]
    assert log_ids("--about", anna.email) == [old.pk, failed.pk, signed_in.pk]
    assert log_ids("--action", "serial.recalled") == [recalled.pk]
    assert log_ids("--action", "serial") == [failed.pk, recalled.pk]
    assert log_ids("--failed") == [failed.pk]
    assert log_ids("--since", "24h") == [failed.pk, recalled.pk, signed_in.pk]
    day = f"{timezone.localtime() - timedelta(days=1):%Y-%m-%d}"
    assert log_ids("--until", day) == [old.pk]
    assert log_ids("--until", f"{day} 00:00") == [old.pk]
    assert log_ids("--since", "1d", "--by", admin.email) == [recalled.pk]
    (row,) = rows("activity_log", "--action", "serial.recalled")
    assert (row["actor"], row["target"], row["detail"]) == (admin.email, "••••-ABCD", {"batch": 3})
    assert "203.0.113.7" in run("activity_log")[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--by", "nobody@example.com"], "nobody@example.com"),
        (["--about", "nobody@example.com"], "nobody@example.com"),
        (["--action", "serials"], "serial"),
        (["--action", "%"], "serial"),
        (["--since", "yesterday"], "no moment"),
        (["--since", "2026-02-30"], "no moment"),
        (["--until", "99999999d"], "no moment"),
    ],
)
def test_what_cannot_be_looked_for_in_the_log_is_refused(wrong: list[str], words: str) -> None:
    assert words in refused("activity_log", *wrong)["message"]


def test_the_log_of_a_closed_account_is_found_by_the_address_it_had() -> None:
    user = UserFactory(email="gone@example.com")
    line = log_operation(by=user, action="user.signed_in", target="x", subject=user)
    close_account(user=user, by=None, reason="")
    finish_closing(user_pk=user.pk, now=timezone.now())
    assert line.pk in log_ids("--by", "gone@example.com")


# device_window


@pytest.mark.django_db(transaction=True)
def test_the_window_for_new_devices_is_opened_shown_and_closed() -> None:
    rental = RentalFactory(days=60)
    devices.close_window(rental=rental, by=None)
    OperationLog.objects.all()._raw_delete(using="default")
    shown = rows("device_window", rental.user.email)
    assert (shown["is_open"], shown["until"], shown["is_checked"]) == (False, None, True)
    opened = rows("device_window", rental.user.email.upper(), "--minutes", "60")
    assert (opened["is_open"], opened["minutes_left"]) == (True, 60)
    assert devices.window_until(rental) > timezone.now() + timedelta(minutes=59)
    assert rows("device_window", rental.user.email)["until"] == opened["until"]
    assert rows("device_window", rental.user.email, "--close")["is_open"] is False
    assert devices.window_until(rental) <= timezone.now()
    lines = OperationLog.objects.filter(action__startswith="devices.window").order_by("pk")
    assert [(line.action, line.actor, line.subject) for line in lines] == [
        ("devices.window_opened", None, rental.user),
        ("devices.window_closed", None, rental.user),
    ]


@pytest.mark.django_db(transaction=True)
def test_no_window_is_opened_for_whoever_is_banned_or_for_any_time() -> None:
    rental = RentalFactory(user__banned_at=timezone.now())
    before = devices.window_until(rental)
    assert refused("device_window", rental.user.email, "--minutes", "10")["code"] == "inactive"
    for wrong in (["--minutes", "11"], ["--minutes", "10", "--close"]):
        refused("device_window", rental.user.email, *wrong)
    assert devices.window_until(rental) == before
    assert "no rental" in refused("device_window", UserFactory().email)["message"]


# live_url


@pytest.mark.django_db(transaction=True)
def test_the_live_url_is_made_once_and_each_look_is_logged() -> None:
    rental = RedeemedRentalFactory()
    made, again = (rows("live_url", rental.user.email) for _time in range(2))
    url = LiveUrl.objects.get(rental=rental)
    assert (made["is_new"], again["is_new"], made["url"] == again["url"]) == (True, False, True)
    assert made["url"] == f"{settings.PUBLIC_URL}/live/{url.secret}.json"
    lines = OperationLog.objects.filter(action__startswith="live_url").order_by("pk")
    assert [(line.action, line.actor, line.subject) for line in lines] == [
        ("live_url.created", None, rental.user),
        ("live_url.revealed", None, rental.user),
    ]
    assert url.secret not in json.dumps(list(lines.values("target", "detail")))
    out, err = run("live_url", rental.user.email)
    assert made["url"] in out
    assert url.secret not in err


def test_there_is_no_live_url_of_a_closed_rental() -> None:
    rental = RentalFactory(closed_at=timezone.now(), ends_at=None, runs_until=None, redemption=None)
    assert refused("live_url", rental.user.email)["returncode"] == 1
    assert not LiveUrl.objects.exists()


# server_show


def test_a_server_is_shown_with_its_reason_relays_and_checks() -> None:
    server = ServerFactory(
        healthy=True,
        name="sh-1",
        memory_bytes=2 * 10**9,
        disk_free_bytes=40 * 10**9,
        load_ratio=0.5,
        status=Server.Status.UNHEALTHY,
        status_code="daemon_down",
    )
    rental = RentalFactory()
    relay = RelayFactory(rental=rental, server=server)
    RelayFactory(server=server, rental=None)
    check = ServerCheckFactory(server=server)
    check.claim()
    check.finish("done")
    shown = rows("server_show", "sh-1")
    assert (shown["status"], shown["reason"]) == ("unhealthy", "The Docker Engine is not running.")
    assert (shown["memory_bytes"], shown["relay_count"], shown["tcp_ports"]) == (2 * 10**9, 2, [20000, 20999])
    assert (relay.pk, rental.user.email) in [(row["id"], row["email"]) for row in shown["relays"]]
    assert [(row["id"], row["status"]) for row in shown["checks"]] == [(check.pk, "done")]
    out, err = run("server_show", server.address, "--relays", "1")
    for words in (
        "The Docker Engine is not running.",
        "2 GB",
        "40 GB",
        "0.50",
        "2/50",
        "SHA256:",
        rental.user.email,
    ):
        assert words in out
    assert "--relays 2" in err
    assert refused("server_show", "nowhere")["code"] == "no_server"


def test_queries_of_a_server_do_not_grow_with_its_relays() -> None:
    server = ServerFactory(healthy=True)
    counts = []
    for _time in range(2):
        for _number in range(3):
            relay = RelayFactory(rental=RentalFactory(), server=server)
            RelayHealthFactory(relay=relay)
            ServerCheckFactory(server=server, status="done")
        with CaptureQueriesContext(connection) as asked:
            run("server_show", server.name)
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["user_list"],
        ["serial_list"],
        ["activity_log"],
        ["server_show", "s"],
        ["device_window", "li@example.com"],
    ],
)
def test_tables_speak_chinese_and_line_up(arguments: list[str]) -> None:
    ServerFactory(name="s", healthy=True)
    user = UserFactory(email="li@example.com", language="zh-hans")
    RentalFactory(user=user)
    SerialBatchFactory(name="春季", count=2)
    with translation.override("zh-hans"):
        out = run(*arguments)[0]
    assert not any(word in out for word in ("State", "Role", "Customer", "Until", "yes", "no "))
    assert any("一" <= char <= "鿿" for char in out.splitlines()[0])
