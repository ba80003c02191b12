import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.core.mail import EmailMultiAlternatives, get_connection
from django.test import Client, override_settings

from accounts.models import User
from derpmgmt.lib import crypto
from tests.factories import PASSWORD, UserFactory

pytestmark = pytest.mark.django_db

Enter = Callable[[User], Client]
PUBLIC = [
    "/",
    "/accounts/login/",
    "/accounts/signup/",
    "/accounts/password/reset/",
    "/accounts/inactive/",
    "/account/closed/",
    "/nowhere/",
]
OWN = [
    "/history/",
    "/history/?view=table",
    "/account/",
    "/accounts/email/",
    "/accounts/password/change/",
    "/accounts/2fa/",
    "/accounts/2fa/webauthn/",
    "/accounts/sessions/",
    "/accounts/logout/",
]
# Reached after somebody proved once more who they are.
SENSITIVE = [
    "/accounts/2fa/totp/deactivate/",
    "/accounts/2fa/recovery-codes/generate/",
    "/accounts/2fa/webauthn/add/",
    "/accounts/reauthenticate/",
]
STAFF = ["/admin/", "/admin/accounts/user/", "/admin/accounts/user/add/", "/admin/accounts/operationlog/"]
INLINE = re.compile(
    r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*(\ssrc=|application/json))", re.IGNORECASE
)


def _check(client: Client, path: str) -> None:
    response = client.get(path)
    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy, path
    assert "unsafe" not in policy, path
    text = response.content.decode()
    assert "<html" in text, path
    assert not (found := INLINE.search(text)), f"{path}: {text[found.start() - 80 : found.end() + 80]}"
    outside = re.findall(r'(?:src|href|action)="(?:https?:)?//(?!testserver/)[^"]+', text)
    assert not outside, path


def test_pages_obey_a_strict_policy(client: Client, sign_in_with_factor: Enter) -> None:
    for path in PUBLIC:
        _check(client, path)
    sign_in_with_factor(UserFactory(role=User.Role.SUPERADMIN))
    for path in OWN + STAFF:
        _check(client, path)


def test_account_pages_have_their_heads_where_all_pages_have_them(sign_in_with_factor: Enter) -> None:
    client = sign_in_with_factor(UserFactory(language="en"))
    for path in [path for path in OWN if path.startswith("/account")] + SENSITIVE:
        text = client.get(path, follow=True).content.decode()
        assert text.count("<h1") == 1, path
        if "account-card" in text:
            assert re.search(r'<header class="panel-head"><div><h1[^>]*>[^<]+</h1>', text), path


def test_allauths_pages_speak_as_the_others_do_in_english(client: Client, sign_in_with_factor: Enter) -> None:
    client.cookies["django_language"] = "en"
    signed_in = sign_in_with_factor(UserFactory(language="en"))
    pages = [(client, path) for path in PUBLIC if path.startswith("/accounts")]
    pages += [(signed_in, path) for path in (*OWN, *SENSITIVE) if path.startswith("/accounts")]
    for visitor, path in pages:
        text = visitor.get(path, follow=True).content.decode()
        for words in re.findall(r"<(?:h[12]|title|label|button)[^>]*>([^<]+)<", text):
            title = html.unescape(words).partition("·")[0].split()
            assert not [word for word in title[1:] if word.istitle()], (path, words)


def test_page_is_chinese_when_nobody_chose(client: Client) -> None:
    response = client.get("/accounts/login/", headers={"accept-language": "en-GB,en;q=0.9"})
    assert '<html lang="zh-hans">' in response.content.decode()
    assert response["Content-Language"] == "zh-hans"


def test_switch_changes_language_and_comes_back(client: Client) -> None:
    response = client.post("/account/language/", {"language": "en", "next": "/accounts/signup/"})
    assert response["Location"] == "/accounts/signup/"
    assert '<html lang="en">' in client.get("/accounts/signup/").content.decode()


def test_choice_stays_with_the_account_when_signed_in(sign_in: Enter) -> None:
    user = UserFactory()
    client = sign_in(user)
    client.post("/account/language/", {"language": "en", "next": "/"})
    user.refresh_from_db()
    assert user.language == "en"
    client.cookies["django_language"] = "zh-hans"
    assert '<html lang="en">' in client.get("/account/").content.decode()


def test_unknown_language_changes_nothing(sign_in: Enter) -> None:
    user = UserFactory()
    client = sign_in(user)
    client.post("/account/language/", {"language": "xx", "next": "https://evil.example/"})
    user.refresh_from_db()
    assert user.language == "zh-hans"


def test_front_page_leads_home_when_signed_in(client: Client, sign_in: Enter) -> None:
    assert 'href="/home/"' not in client.get("/").content.decode()
    assert 'href="/home/"' in sign_in(UserFactory()).get("/").content.decode()


def test_serial_box_leads_to_redeeming(client: Client) -> None:
    page = client.get("/").content.decode()
    assert re.search(r'<form[^>]*method="post"[^>]*action="/redeem/"', page)
    assert 'name="code"' in page


def test_mailbox_does_not_exist_outside_the_demo(client: Client) -> None:
    assert client.get("/mailbox/").status_code == 404
    assert "/mailbox/" not in client.get("/accounts/signup/").content.decode()


def test_mailbox_shows_the_newest_first_in_the_demo(client: Client, tmp_path: Path) -> None:
    backend = get_connection("django.core.mail.backends.filebased.EmailBackend", file_path=str(tmp_path))
    for number, date in ((1, "Sun, 22 Nov 2026 08:00:00 -0000"), (2, "Sun, 22 Nov 2026 09:00:00 -0000")):
        message = EmailMultiAlternatives(
            f"主题 {number}", f"验证码 <{number}>", "a@example.com", ["wei@example.com"]
        )
        message.extra_headers["Date"] = date
        message.attach_alternative("<p>html</p>", "text/html")
        message.connection = backend
        message.send()
    with override_settings(IS_DEMO=True, EMAIL_FILE_PATH=tmp_path):
        page = client.get("/mailbox/").content.decode()
        assert "/mailbox/" in client.get("/accounts/signup/").content.decode()
    assert page.index("主题 2") < page.index("主题 1")
    assert "2026-11-22 17:00:00" in page
    assert "验证码 &lt;2&gt;" in page


def test_form_error_page_is_ours_when_the_token_is_missing() -> None:
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {})
    assert response.status_code == 403
    assert "panel.css" in response.content.decode()


@pytest.mark.parametrize("name", ["400", "500"])
def test_bare_error_pages_need_no_request(name: str) -> None:
    from django.template.loader import render_to_string

    assert name in render_to_string(f"{name}.html")


def test_sessions_are_named_in_words_and_the_others_end_after_a_question(db: None) -> None:
    user = UserFactory(email="wei@example.com", language="en")
    chrome = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36"
    here, there = Client(headers={"User-Agent": chrome}), Client(headers={"User-Agent": "curl/8.5.0"})
    for client in (here, there):
        client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    page = here.get("/accounts/sessions/").text
    assert "Chrome · Windows" in page
    assert "curl/8.5.0" in page
    assert 'href="/account/sessions/end/"' in page
    question = here.get("/account/sessions/end/").text
    assert "Sign out the 1 other session?" in question
    assert 'action="/accounts/sessions/"' in question
    assert there.get("/account/").status_code == 200
    here.post("/accounts/sessions/")
    assert there.get("/account/").status_code == 302
    assert here.get("/account/").status_code == 200
    # Nobody is asked about nothing.
    assert here.get("/account/sessions/end/").status_code == 302


def test_second_factors_are_offered_that_a_person_has(db: None) -> None:
    user = UserFactory(email="wei@example.com", language="en")
    client = Client()
    client.force_login(user)
    page = client.get("/accounts/2fa/").text
    assert "Off: whoever knows your password can sign in." in page
    assert "Recovery codes" not in page
    Authenticator.objects.create(user=user, type="totp", data={"secret": crypto.encrypt("A" * 32)})
    codes = RecoveryCodes.activate(user)
    page = client.get("/accounts/2fa/").text
    assert "10 of 10 are left." in page
    assert len(codes.get_unused_codes()) == 10
    door = Client()
    door.cookies["django_language"] = "en"
    door.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    page = door.get("/accounts/2fa/authenticate/").text
    assert "authenticator app shows" in page
    assert "A recovery code works too." in page
    assert "passkey" not in page
