"""The redeem page, from typing to home."""

import re
from datetime import date, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth import get_user
from django.contrib.messages import get_messages
from django.core import mail
from django.test import Client
from django.utils import timezone, translation
from django.utils.html import strip_tags

from accounts.models import OperationLog, User
from serials.numbers import codes, services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Redemption, Rental
from tests.factories import SerialBatchFactory, SerialNumberFactory, UserFactory

URL = "/redeem/"


@pytest.fixture
def signed_in(client: Client, customer: User) -> Client:
    client.force_login(customer, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def speak(client: Client, user: User | None, language: str) -> None:
    client.cookies["django_language"] = language
    if user:
        User.objects.filter(pk=user.pk).update(language=language)


def words(response: Any) -> str:
    """The page's text as people read it."""
    return unescape(response.content.decode())


def confirm(client: Client, serial: SerialNumber, start: str = "") -> Any:
    return client.post(URL, {"code": codes.group(serial.code), "start": start, "confirm": "1"})


def told(response: Any) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]


def test_rental_starts_when_a_person_types_and_confirms(signed_in: Client, customer: User) -> None:
    serial = SerialNumberFactory(days=30, device_limit=7)
    response = signed_in.post(URL, {"code": f" {codes.group(serial.code).lower()} "})
    assert response["Location"] == URL
    page = signed_in.get(URL)
    preview = page.context["preview"]
    assert preview.new_ends_at - timezone.now() > timedelta(days=29, hours=23)
    assert f"{timezone.localtime(preview.new_ends_at):%Y-%m-%d %H:%M}" in words(page)
    assert not Rental.objects.exists()
    response = confirm(signed_in, serial)
    assert response["Location"] == "/home/"
    assert Rental.objects.get(user=customer).ends_at == Redemption.objects.get().new_ends_at
    assert f"{timezone.localtime(Redemption.objects.get().new_ends_at):%Y-%m-%d %H:%M}" in told(response)[0]


def test_code_in_the_address_is_put_into_the_box_and_neither_checked_nor_counted(
    signed_in: Client, settings: Any
) -> None:
    settings.REDEEM_RATE = "3/h"
    code = SerialNumberFactory().code
    for _ in range(5):
        page = signed_in.get(URL, {"code": codes.generate()})
        assert page.status_code == 200
        assert not page.context["form"].errors
    page = signed_in.get(URL, {"code": code})
    assert f'value="{code}"' in words(page)
    assert "preview" not in signed_in.get(URL).context
    assert signed_in.post(URL, {"code": code})["Location"] == URL
    assert signed_in.get(URL).context["preview"]


def test_pictures_on_other_pages_shut_no_visitor_out(db: None, client: Client, settings: Any) -> None:
    settings.REDEEM_RATE = "3/h"
    for _ in range(5):
        client.get(URL, {"code": "0000"}, HTTP_SEC_FETCH_DEST="image")
    assert client.post(URL, {"code": SerialNumberFactory().code})["Location"] == URL


def test_right_codes_are_not_counted(signed_in: Client, settings: Any) -> None:
    settings.REDEEM_RATE = "2/h"
    assert [signed_in.post(URL, {"code": SerialNumberFactory().code}).status_code for _ in range(4)] == [
        302
    ] * 4


def test_person_may_choose_only_when_what_he_has_is_different(signed_in: Client) -> None:
    confirm(signed_in, SerialNumberFactory(days=30, device_limit=5))
    signed_in.post(URL, {"code": SerialNumberFactory(device_limit=5).code})
    assert 'name="start"' not in words(signed_in.get(URL))
    other = SerialNumberFactory(days=3, device_limit=50)
    signed_in.post(URL, {"code": other.code})
    assert 'name="start"' in words(signed_in.get(URL))
    confirm(signed_in, other, start="now")
    spans = list(Rental.objects.get().spans.values_list("device_limit", flat=True))
    assert spans in ([50, 5], [5, 50, 5])  # within the first second nothing of the first is used


def test_second_click_leads_home_when_the_first_redeemed(signed_in: Client) -> None:
    serial = SerialNumberFactory()
    confirm(signed_in, serial)
    response = confirm(signed_in, serial)
    assert response["Location"] == "/home/"
    assert Redemption.objects.count() == 1
    page = signed_in.post(URL, {"code": serial.code})
    assert page.context["refusal"] == "already_redeemed"
    assert 'href="/home/"' in words(page)


def _refused(customer: User) -> dict[str, str]:
    other = UserFactory(email="wang@example.com")
    mine, used, recalled, unpaid, over = (SerialNumberFactory() for _ in range(5))
    services.redeem_serial(code=mine.code, user=customer, by=customer)
    services.redeem_serial(code=used.code, user=other, by=other)
    services.recall_serial(serial=recalled, by=None)
    services.mark_batch_unpaid(batch=unpaid.batch, by=None)
    SerialBatch.objects.filter(pk=over.batch_id).update(redeem_by=date(2026, 1, 31))
    wrong = SerialNumberFactory().code
    return {
        "mistyped": wrong[:-1] + ("0" if wrong[-1] != "0" else "1"),
        "unknown": codes.generate(),
        "used": used.code,
        "already_redeemed": mine.code,
        "recalled": recalled.code,
        "unpaid": unpaid.code,
        "expired": over.code,
    }


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("way", ["check", "confirm"])
def test_each_refusal_is_told_when_a_code_is_not_good(
    signed_in: Client, customer: User, language: str, way: str
) -> None:
    sentences = set()
    for kind, code in _refused(customer).items():
        speak(signed_in, customer, language)
        typed = code.lower() + " "
        with translation.override(language), pytest.raises(services.SerialRefused) as refused:
            services.find_serial(code, user=customer)
        with translation.override(language):
            sentence = str(refused.value)
        response = signed_in.post(URL, {"code": typed} | ({"confirm": "1"} if way == "confirm" else {}))
        if (kind, way) == ("already_redeemed", "confirm"):
            assert told(response) == [sentence]
        else:
            assert refused.value.code == response.context["refusal"] == kind
            assert sentence in words(response)
            assert f'value="{typed.strip()}"' in words(response).replace(
                f'value="{typed}"', f'value="{typed.strip()}"'
            )
        sentences.add(sentence)
        assert OperationLog.objects.filter(action="serial.refused").latest("pk").detail["reason"] == kind
    assert len(sentences) == 7


def test_box_asks_for_a_code_when_it_is_empty_or_endless(signed_in: Client) -> None:
    for typed in ("", "   ", "A" * 5000, "\x00"):
        response = signed_in.post(URL, {"code": typed})
        assert response.status_code == 200
        assert response.context["form"].errors["code"]


def test_serial_is_not_lost_when_a_visitor_signs_up(db: None, client: Client) -> None:
    serial = SerialNumberFactory(days=30)
    client.post(URL, {"code": serial.code})
    page = words(client.get(URL))
    link = re.search(r'href="(/accounts/signup/\?next=[^"]+)"', page)
    assert link
    client.get(link[1])
    signup = client.post(link[1], {"email": "li@example.com", "username": "", "password1": "quiet-river-42"})
    code = re.search(r"^[A-Z0-9]{4}-[A-Z0-9]{4}$|^[A-Z0-9]{6}$", str(mail.outbox[-1].body), re.MULTILINE)
    assert code
    response = client.post(signup["Location"], {"code": code[0]})
    assert response["Location"] == URL
    assert get_user(client).is_authenticated
    page = words(client.get(URL))
    assert codes.group(serial.code) in page
    confirm(client, serial)
    assert Rental.objects.get().user.email == "li@example.com"


def test_serial_is_not_lost_when_a_visitor_signs_in_by_himself(db: None, client: Client) -> None:
    UserFactory(email="li@example.com")
    serial = SerialNumberFactory()
    client.post(URL, {"code": serial.code})
    client.post("/accounts/login/", {"login": "li@example.com", "password": "quiet-river-42"})
    assert get_user(client).is_authenticated
    assert codes.group(serial.code) in words(client.get(URL))


def test_home_leads_on_with_a_kept_serial_whichever_way_its_owner_came(signed_in: Client) -> None:
    link = f'href="{URL}">继续激活'
    assert link not in words(signed_in.get("/home/"))
    serial = SerialNumberFactory()
    signed_in.post(URL, {"code": serial.code})
    page = words(signed_in.get("/home/"))
    assert link in page
    assert serial.code not in page.replace("-", "")
    signed_in.get(URL, {"code": ""})
    assert link not in words(signed_in.get("/home/"))


def test_kept_code_does_not_lie_in_the_session(db: None, client: Client) -> None:
    serial = SerialNumberFactory()
    client.post(URL, {"code": serial.code})
    assert serial.code not in repr(dict(client.session.items())).replace("-", "")


def test_kept_serial_is_refused_when_another_redeems_it_meanwhile(signed_in: Client) -> None:
    serial = SerialNumberFactory()
    signed_in.post(URL, {"code": serial.code})
    other = UserFactory(email="wang@example.com")
    services.redeem_serial(code=serial.code, user=other, by=other)
    page = signed_in.get(URL)
    assert page.context["refusal"] == "used"
    assert codes.group(serial.code) in words(page)
    assert "refusal" not in signed_in.get(URL).context


def test_kept_serial_is_put_away_when_he_wants_another(signed_in: Client) -> None:
    signed_in.post(URL, {"code": SerialNumberFactory().code})
    assert signed_in.get(URL, {"code": ""})["Location"] == URL
    assert "preview" not in signed_in.get(URL).context


def test_visitor_is_sent_to_sign_in_when_he_confirms(db: None, client: Client) -> None:
    response = confirm(client, SerialNumberFactory())
    assert response["Location"].startswith("/accounts/login/?next=/redeem/")
    assert not Redemption.objects.exists()


@pytest.mark.parametrize("way", [{}, {"confirm": "1"}])
def test_guessing_ends_when_the_limit_is_reached(
    signed_in: Client, settings: Any, way: dict[str, str]
) -> None:
    settings.REDEEM_RATE = "3/h"
    for _ in range(3):
        assert signed_in.post(URL, {"code": codes.generate(), **way}).status_code == 200
    good = SerialNumberFactory()
    response = signed_in.post(URL, {"code": good.code, **way})
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 3600
    minutes = -(-int(response["Retry-After"]) // 60)
    assert str(minutes) in " ".join(response.context["form"].errors["code"])
    assert good.code in words(response)
    assert not Redemption.objects.exists()


def test_limit_counts_by_address_and_by_account(client: Client, customer: User, settings: Any) -> None:
    settings.REDEEM_RATE = "3/h"
    backend = "allauth.account.auth_backends.AuthenticationBackend"

    def try_from(address: str, browser: Client) -> int:
        return browser.post(URL, {"code": codes.generate()}, REMOTE_ADDR=address).status_code

    assert [try_from("198.51.100.1", Client()) for _ in range(4)] == [200, 200, 200, 429]
    client.force_login(customer, backend=backend)
    assert [try_from(f"198.51.100.{n}", client) for n in range(2, 6)] == [200, 200, 200, 429]
    # Others behind their address are not shut out by them.
    assert try_from("198.51.100.2", Client()) == 200
    assert [try_from(f"2001:db8:1:1::{n}", Client()) for n in range(4)] == [200, 200, 200, 429]
    # Nor is who is signed in by them.
    other = Client()
    other.force_login(UserFactory(email="wang@example.com"), backend=backend)
    assert try_from("198.51.100.1", other) == 200


def test_own_confirmation_is_not_counted_again(signed_in: Client, settings: Any) -> None:
    settings.REDEEM_RATE = "3/h"
    for serial in SerialBatchFactory(count=3).serials.all():
        signed_in.post(URL, {"code": serial.code})
        assert confirm(signed_in, serial).status_code == 302
    assert Redemption.objects.count() == 3


def test_page_is_not_stored_by_caches(signed_in: Client) -> None:
    assert "no-store" in signed_in.get(URL)["Cache-Control"]


def test_the_page_says_what_was_sold_for_each_direction(signed_in: Client, customer: User) -> None:
    sold = {"upload_quota_bytes": 5 * 10**9, "download_quota_bytes": 7 * 10**9, "at_quota": "stop"}
    signed_in.post(URL, {"code": SerialNumberFactory(**sold).code})
    speak(signed_in, customer, "en")
    page = " ".join(strip_tags(words(signed_in.get(URL))).split())
    assert (
        "devices may send 5 GB a month, stopped afterwards devices may receive 7 GB a month, stopped" in page
    )
    assert "unlimited" not in page


def test_the_page_says_when_device_checking_cannot_be_switched_off(signed_in: Client) -> None:
    for may_open in (True, False):
        signed_in.post(URL, {"code": SerialNumberFactory(may_open=may_open).code})
        page = words(signed_in.get(URL))
        with translation.override("zh-hans"):
            text = translation.gettext("device checking cannot be turned off")
        assert (text in page) is not may_open
