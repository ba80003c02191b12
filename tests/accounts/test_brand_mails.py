"""Whatever a person is sent goes by the brand's name: mails of every kind, their sender, push messages, second factors."""

import re
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.utils import parseaddr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from allauth.account.adapter import get_adapter
from allauth.core import context as allauth_context
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.test import RequestFactory
from django.utils import timezone, translation

from accounts import push, wordlist
from accounts.adapter import MFAAdapter
from accounts.admin_acts import send_test_mail
from accounts.brand import sender
from accounts.models import Channel, Notice, User
from accounts.services import change_brand, channels, notify
from accounts.services.notices import render, send_notice
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).parents[2]
NAME = "云桥加速"
# What the rooms give their notices; a kind that lacks something of it says less.
CONTEXT: dict[str, Any] = {
    "url": "http://testserver/home/", "reason": "test", "code": "AB-CD", "days": 30, "name": "shanghai-1", "names": ["shanghai-1"],
    "region": "上海", "count": 2, "version": 3, "old_version": 2, "changes": [], "must_paste": True, "ip": "192.0.2.1", "key": "nodekey:1",
    "servers": [], "mail_subject": "Subject", "mail_text": "Text", "mail_html": "<p>Text</p>",
    "used": 80_000_000_000, "allowed": 100_000_000_000, "lifeline": 16_000, "way": "both", "at_end": "throttle",
    **dict.fromkeys(("ends_at", "closes_at", "since_at", "at", "valid_until", "old_until", "pause_until"), "2026-12-24T12:00:00Z"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _brand(db: None) -> None:
    change_brand(by=None, name=NAME, accent="#1a7f5c", wechat="yunqiao_kefu", email="kefu@example.com")


@pytest.fixture
def request_of_visitor() -> Iterator[Any]:
    request = RequestFactory().get("/")
    request.user, request.session = AnonymousUser(), {}  # type: ignore[assignment]
    with allauth_context.request_context(request):
        yield request


def says_who_it_is(text: str, html: str) -> None:
    for words in (text, html):
        assert "derpmgmt" not in words
        assert NAME in words
        assert "yunqiao_kefu" in words
    assert "#1a7f5c" in html


@pytest.mark.parametrize("language", ["zh-hans", "en"])
def test_a_notice_of_every_kind_says_who_it_is_from(language: str) -> None:
    user = UserFactory()
    assert wordlist.NOTICES
    for kind in wordlist.NOTICES:
        words = render(Notice(user=user, kind=kind, context=CONTEXT, language=language))
        assert "derpmgmt" not in words.subject + words.text + words.html, kind
        if kind != "security":  # its text was made before
            says_who_it_is(words.text, words.html)


def prefixes() -> list[str]:
    """Every mail that allauth or we have the words of."""
    spec = find_spec("allauth")
    assert spec is not None
    assert spec.submodule_search_locations
    folders = [ROOT / "templates", Path(spec.submodule_search_locations[0], "templates")]
    found = {
        f"{folder}/email/{file.name.removesuffix('_message.txt')}"
        for templates in folders
        for folder in ("account", "mfa")
        for file in (templates / folder / "email").glob("*_message.txt")
    }
    return sorted(prefix for prefix in found if not prefix.endswith("/base"))


@pytest.mark.parametrize("prefix", prefixes())
@pytest.mark.parametrize("language", ["zh-hans", "en"])
def test_every_mail_of_the_account_says_who_it_is_from(
    prefix: str, language: str, request_of_visitor: Any
) -> None:
    context = {
        "user": UserFactory(),
        "code": "ABC-DEF",
        "email": "wei@example.com",
        "password_reset_url": "http://testserver/x/",
        "activate_url": "http://testserver/y/",
        "signup_url": "http://testserver/z/",
        "timestamp": timezone.now(),
        "request": request_of_visitor,
    }
    with translation.override(language):
        message = get_adapter().render_mail(prefix, "wei@example.com", context)
    assert isinstance(message, EmailMultiAlternatives)
    html = str(message.alternatives[0][0])
    assert "derpmgmt" not in str(message.subject)
    says_who_it_is(str(message.body), html)
    # Who it is from stands there once.
    assert html.count("yunqiao_kefu") == 1
    assert parseaddr(str(message.from_email))[1] == parseaddr(settings.DEFAULT_FROM_EMAIL)[1]
    assert "derpmgmt" not in str(message.from_email)


def tell(user: User) -> None:
    """A notice by every way that the person has, sent."""
    for notice in notify(user=user, kind="second_factor_reset", key="one", context={"username": "wei"}):
        send_notice(notice.pk)


def test_mails_come_from_the_name_at_the_address_of_the_settings() -> None:
    tell(UserFactory())
    send_test_mail("boss@example.com", sender=sender())
    assert len(mail.outbox) == 2
    for message in mail.outbox:
        whole = message.message()
        assert str(make_header(decode_header(str(whole["From"])))) == f"{NAME} <noreply@localhost>"
        assert "derpmgmt" not in whole.as_string()


def test_without_a_name_mails_come_as_the_settings_say() -> None:
    change_brand(by=None, name="")
    assert sender() == settings.DEFAULT_FROM_EMAIL == "derpmgmt <noreply@localhost>"


def test_push_messages_say_who_they_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []
    monkeypatch.setattr(push, "send", lambda _url, **words: sent.append(words))
    user = UserFactory()
    channels.add_push_channel(user=user, address="schan://SCT12345TabcdefGHIJKLmnop")
    channels.send_test(channel=Channel.objects.get())
    tell(user)
    assert len(sent) == 2
    for words in sent:
        assert NAME in words["text"]
        assert "derpmgmt" not in words["title"] + words["text"]


@pytest.mark.parametrize(("name", "shown"), [(NAME, "DERP"), ("Yunqiao", "Yunqiao")])
def test_services_of_push_messages_get_a_name_that_a_header_takes(name: str, shown: str) -> None:
    change_brand(by=None, name=name)
    assert push._service("schan://SCT12345TabcdefGHIJKLmnop").app_id == shown


def test_second_factors_go_by_the_name(request_of_visitor: Any) -> None:
    adapter = MFAAdapter()
    url = adapter.build_totp_url(UserFactory(), "SECRET")
    assert f"issuer={'%E4%BA%91%E6%A1%A5%E5%8A%A0%E9%80%9F'}" in url
    assert "derpmgmt" not in url
    assert adapter.get_public_key_credential_rp_entity() == {"id": "testserver", "name": NAME}
    change_brand(by=None, name="A: B")
    assert "issuer=A%20%20B" in adapter.build_totp_url(UserFactory(), "SECRET")


def test_no_text_of_the_catalogue_says_derpmgmt_but_to_operators() -> None:
    catalogue = (ROOT / "locale/zh_Hans/LC_MESSAGES/django.po").read_text()
    said = {
        "".join(re.findall(r'^(?:msgid )?"(.*)"$', block.partition("msgstr")[0], re.MULTILINE))
        for block in catalogue.split("\n\n")[1:]
        if "derpmgmt" in re.sub(r"^#.*$", "", block, flags=re.MULTILINE)
    }
    assert {text[:20] for text in said} <= {"derpmgmt operations", "%(host)s keeps what "}
