"""Push services and text messages: what is taken, what is refused, what leaves the machine."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
import time_machine
from django.test import Client
from django.utils import timezone, translation

from accounts import push, services, sms
from accounts.models import Channel, Notice, User
from accounts.services import channels, notices
from tests.factories import ChannelFactory, UserFactory

pytestmark = pytest.mark.django_db

BARK = "bark://api.day.app/abcdefKEY1234"
TELEGRAM = "tgram://123456789:ABCdefGHIjklMNOpqrsTUVwxyz012345678/98765432"
# What people type, and the only host that is then asked.
TAKEN = {
    "wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee": "qyapi.weixin.qq.com",
    "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee": "qyapi.weixin.qq.com",
    "dingtalk://SECabc123@" + "a1" * 32: "oapi.dingtalk.com",
    "feishu://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee": "open.feishu.cn",
    "schan://SCT12345TabcdefGHIJKLmnop": "sctapi.ftqq.com",
    "wxpusher://AT_abcdefghijklmnop/UID_abcdefgh": "wxpusher.zjiecode.com",
    "pushplus://" + "ab12" * 8: "www.pushplus.plus",
    BARK: "api.day.app",
    "pushdeer://PDU1234Tabcdefghijk": "api2.pushdeer.com",
    TELEGRAM: "api.telegram.org",
    "pover://" + "u" * 30 + "@" + "a" * 30: "api.pushover.net",
    "discord://123456789012345678/" + "abcDEF" * 11: "discord.com",
    "slack://T1234ABCD/B1234ABCD/abcdefABCDEF123456789012": "hooks.slack.com",
}
REFUSED = [
    "",
    "no address",
    "json://127.0.0.1/x",
    "jsons://internal.example/x",
    "xml://10.0.0.1/",
    "form://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "http://127.0.0.1:6379/",
    "https://169.254.169.254/latest/meta-data",
    "https://qyapi.weixin.qq.com.evil.example/cgi-bin/webhook/send?key=x",
    "https://qyapi.weixin.qq.com@127.0.0.1/cgi-bin/webhook/send?key=6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "bark://127.0.0.1/abcdef",
    "barks://127.0.0.1:8080/abcdef",
    "bark://api.day.app:8080/abcdef",
    "bark://[::1]/abcdef",
    "pushdeer://127.0.0.1/PDU1234Tabcdefghijk",
    "pushdeer://localhost:6379/PDU1234Tabcdefghijk",
    "gotify://10.0.0.1/token",
    "ntfy://10.0.0.1/topic",
    "matrix://user:pass@10.0.0.1/room",
    "mailto://user:pass@example.com",
    "syslog://",
    "dbus://",
    "apprise://127.0.0.1/key",
    "wecombot://",
    "schan://" + "x" * 600,
]


@pytest.fixture
def user() -> User:
    return UserFactory(email="wei@example.com")


@pytest.fixture
def internet() -> Iterator[responses.RequestsMock]:
    """Everything that is asked of the world is answered as its services do when all is well, and noted."""
    words = '{"ok":true,"errcode":0,"errmsg":"ok","code":0,"data":{"error":"SUCCESS"},"status":1,"result":{"message_id":1}}'
    with responses.RequestsMock(assert_all_requests_are_fired=False) as world:
        for method in ("GET", "POST"):
            world.add(method, re.compile(".*"), body=words, content_type="application/json")
        yield world


@pytest.fixture
def with_sms(settings: Any) -> None:
    pytest.importorskip("alibabacloud_dysmsapi20170525", reason="requirements-sms.txt is not installed")
    settings.SMS_ACCESS_KEY_ID, settings.SMS_ACCESS_KEY_SECRET = "LTAIexample", "secret-of-the-key"
    settings.SMS_SIGN_NAME = "中继"
    settings.SMS_NOTICE_TEMPLATE, settings.SMS_CODE_TEMPLATE = "SMS_1", "SMS_2"


@pytest.mark.parametrize("address", TAKEN)
def test_a_service_is_taken_and_only_its_own_host_is_asked(
    address: str, internet: responses.RequestsMock
) -> None:
    read = push.read_address(address)
    assert push.read_address(read.url) == read
    try:
        push.send(read.url, title="Title", text="Text")
    except push.PushFailed:
        # Not every service's answer is known here to the letter; who is asked is what counts.
        assert len(internet.calls) >= 1
    asked = {urlsplit(call.request.url or "").hostname for call in internet.calls}
    assert asked == {TAKEN[address]}
    assert all((call.request.url or "").startswith("https://") for call in internet.calls)


@pytest.mark.parametrize(
    ("address", "body", "reason"),
    [
        (
            "wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            {"errcode": 93000, "errmsg": "invalid webhook url"},
            "93000 invalid webhook url",
        ),
        (
            "dingtalk://" + "a1" * 32,
            {"errcode": 310000, "errmsg": "keywords not in content"},
            "310000 keywords not in content",
        ),
        (
            "feishu://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            {"code": 19024, "msg": "Key Words Not Found", "data": {}},
            "19024 Key Words Not Found",
        ),
        ("feishu://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", {"StatusCode": 0, "StatusMessage": "success"}, ""),
        ("wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", {"errcode": 0, "errmsg": "ok"}, ""),
        ("wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", ["no", "object"], ""),
    ],
)
def test_what_a_service_refuses_in_the_body_of_a_200_was_not_sent(
    address: str, body: Any, reason: str
) -> None:
    url = push.read_address(address).url
    for _number in range(2):
        with responses.RequestsMock() as world:
            world.add("POST", re.compile(".*"), json=body)
            if not reason:
                push.send(url, title="Title", text="Text")
                continue
            with pytest.raises(push.PushFailed) as refused:
                push.send(url, title="Title", text="Text")
            assert (refused.value.reason, refused.value.is_in_doubt) == (reason, False)


def test_a_long_text_in_chinese_fits_into_wecoms_bytes(internet: responses.RequestsMock) -> None:
    push.send("wecombot://6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", title="告警", text="中继" * 2000)
    (call,) = internet.calls
    content = json.loads(call.request.body or "")["text"]["content"]
    assert 1900 < len(content.encode()) <= 2048
    assert content.endswith("…")


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_could_be_pointed_elsewhere_is_refused(
    address: str, internet: responses.RequestsMock
) -> None:
    with pytest.raises(push.AddressRefused):
        push.read_address(address)
    assert not internet.calls


def test_what_else_stands_in_an_address_is_cut_off() -> None:
    read = push.read_address(
        f"{BARK}?rto=99999&cto=99999&verify=no&icon=http://10.0.0.1/x&click=http://10.0.0.1/"
    )
    assert read.url == push.read_address(BARK).url
    assert "?" not in read.url
    key = "6aaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
    hook = push.read_address(f"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key={key}&verify=no&rto=9999")
    assert hook.url == f"wecombot://{key}/"


def test_keys_are_in_no_label_no_reason_and_no_log(
    internet: responses.RequestsMock, capfd: pytest.CaptureFixture[str]
) -> None:
    read = push.read_address(TELEGRAM)
    token = "ABCdefGHIjklMNOpqrsTUVwxyz012345678"
    assert token not in read.label
    assert token not in repr(read)
    internet.reset()
    words = f'{{"ok":false,"error_code":401,"description":"Unauthorized {token}"}}'
    internet.add("POST", f"https://api.telegram.org/bot123456789:{token}/sendMessage", body=words, status=401)
    with pytest.raises(push.PushFailed) as failure:
        push.send(read.url, title="a", text="b")
    assert "401" in failure.value.reason
    assert token not in failure.value.reason
    assert "98765432" not in failure.value.reason
    assert not re.search(r"ABCdefGHI|98765432", "".join(capfd.readouterr()))


def test_a_notice_goes_by_mail_and_by_every_channel_once(
    user: User, internet: responses.RequestsMock
) -> None:
    channels.add_push_channel(user=user, address=BARK)
    context = {"ends_at": timezone.now() + timedelta(days=3), "url": "http://testserver/redeem/"}
    for _time in range(2):
        services.notify(user=user, kind="rental_ending", key="r", context=context)
    for _time in range(2):
        for pk in Notice.objects.values_list("pk", flat=True):
            notices.send_notice(pk)
    assert sorted(Notice.objects.values_list("channel", "state")) == [("email", "sent"), ("push", "sent")]
    (call,) = internet.calls
    assert "http://testserver/redeem/" in str(call.request.body)


def test_a_push_that_fails_is_tried_again_and_does_not_touch_the_mail(
    user: User, internet: responses.RequestsMock
) -> None:
    channels.add_push_channel(user=user, address=BARK)
    internet.reset()
    internet.add("POST", "https://api.day.app/push", body=requests.ConnectTimeout("no way"))
    services.notify(user=user, kind="rental_ended", key="r", context={"ends_at": timezone.now()})
    for pk in Notice.objects.values_list("pk", flat=True):
        notices.send_notice(pk)
    assert dict(Notice.objects.values_list("channel", "state")) == {"email": "sent", "push": "waiting"}
    waiting = Notice.objects.get(channel="push")
    assert waiting.error
    internet.reset()
    internet.add("POST", "https://api.day.app/push", json={"code": 200})
    with time_machine.travel(waiting.send_after):
        notices.send_notice(waiting.pk)
    waiting.refresh_from_db()
    assert waiting.state == Notice.State.SENT


def test_nothing_is_pushed_by_a_channel_that_was_removed(
    user: User, internet: responses.RequestsMock
) -> None:
    channel = channels.add_push_channel(user=user, address=BARK)
    services.notify(user=user, kind="rental_ended", key="r", context={"ends_at": timezone.now()})
    channels.remove_channel(channel=channel)
    notices.send_notice(Notice.objects.get(channel="push").pk)
    assert Notice.objects.get(channel="push").state == Notice.State.DROPPED
    assert not internet.calls


def test_a_person_adds_tests_and_removes_a_channel_on_his_page(
    user: User, sign_in: Callable[[User], Client], internet: responses.RequestsMock
) -> None:
    client = sign_in(user)
    client.post("/account/language/", {"language": "en"})
    page = client.post("/account/channels/", {"kind": "push", "address": BARK}, follow=True).content.decode()
    assert "Bark ••••1234" in page
    assert "abcdefKEY1234" not in page
    channel = Channel.objects.get()
    shown = client.post(f"/account/channels/{channel.pk}/test/", follow=True).content.decode()
    assert len(internet.calls) == 1
    assert "Bark" in shown
    again = client.post("/account/channels/", {"kind": "push", "address": BARK}).content.decode()
    assert "already" in again
    client.post(f"/account/channels/{channel.pk}/remove/")
    assert not Channel.objects.exists()
    # A second click, or another tab.
    for verb in ("test", "remove"):
        gone = client.post(f"/account/channels/{channel.pk}/{verb}/", follow=True)
        assert "This channel is not there any more." in gone.text
    refused = client.post(
        "/account/channels/", {"kind": "push", "address": "json://10.0.0.1/"}
    ).content.decode()
    assert "none of the services" in refused


def test_another_persons_channel_is_not_there(user: User, sign_in: Callable[[User], Client]) -> None:
    channel = channels.add_push_channel(user=user, address=BARK)
    client = sign_in(UserFactory(email="li@example.com"))
    for verb in ("test", "confirm", "remove"):
        page = client.post(f"/account/channels/{channel.pk}/{verb}/", follow=True)
        missing = client.post(f"/account/channels/{channel.pk + 1}/{verb}/", follow=True)
        assert [str(message) for message in page.context["messages"]] == [
            str(message) for message in missing.context["messages"]
        ]
        assert "1234" not in page.text
    assert Channel.objects.filter(pk=channel.pk).exists()
    assert "1234" not in client.get("/account/channels/").content.decode()


def test_only_so_many_channels_are_taken(user: User) -> None:
    for number in range(channels.MOST):
        channels.add_push_channel(user=user, address=f"bark://api.day.app/key{number}abcdef")
    with pytest.raises(channels.ChannelRefused):
        channels.add_push_channel(user=user, address="bark://api.day.app/onemorekey")


# Text messages


def sms_calls(internet: responses.RequestsMock) -> list[dict[str, str]]:
    """What Alibaba Cloud was asked, by variable."""
    found = []
    for call in internet.calls:
        url = urlsplit(call.request.url or "")
        body = call.request.body or ""
        given = parse_qs(url.query) | parse_qs(body.decode() if isinstance(body, bytes) else str(body))
        assert url.hostname == "dysmsapi.aliyuncs.com"
        found.append({name: values[0] for name, values in given.items()})
    return found


def answer(internet: responses.RequestsMock, **fields: Any) -> None:
    internet.reset()
    status = fields.pop("status", 200)
    internet.add("POST", "https://dysmsapi.aliyuncs.com/", json={"RequestId": "r", **fields}, status=status)


def test_a_number_is_used_once_its_owner_has_typed_the_code(
    user: User, with_sms: None, sign_in: Callable[[User], Client], internet: responses.RequestsMock
) -> None:
    answer(internet, Code="OK", Message="OK", BizId="1")
    client = sign_in(user)
    client.post("/account/channels/", {"kind": "sms", "number": "+86 138-1234-5678"})
    channel = Channel.objects.get()
    assert str(channel) == "138••••5678"
    (asked,) = sms_calls(internet)
    assert (asked["PhoneNumbers"], asked["TemplateCode"]) == ("13812345678", "SMS_2")
    assert "secret-of-the-key" not in str(asked)
    code = json.loads(asked["TemplateParam"])["code"]
    context = {"ends_at": timezone.now(), "url": "http://testserver/redeem/"}
    services.notify(user=user, kind="rental_ended", key="before", context=context)
    assert not Notice.objects.filter(channel="sms").exists()
    wrong = "000000" if code != "000000" else "000001"
    client.post(f"/account/channels/{channel.pk}/confirm/", {"code": wrong})
    assert Channel.objects.get().confirmed_at is None
    client.post(f"/account/channels/{channel.pk}/confirm/", {"code": code})
    assert Channel.objects.get().confirmed_at
    twice = client.post(f"/account/channels/{channel.pk}/confirm/", {"code": code}, follow=True)
    assert [message.level_tag for message in twice.context["messages"]][-1] == "success"
    services.notify(user=user, kind="rental_ended", key="after", context=context)
    notices.send_notice(Notice.objects.get(channel="sms").pk)
    with translation.override(user.language):
        subject = notices.render(Notice.objects.get(channel="sms")).subject
    assert sms_calls(internet)[1]["TemplateCode"] == "SMS_1"
    assert subject in sms_calls(internet)[1]["TemplateParam"]
    # What is not urgent costs no text message.
    services.notify(user=user, kind="second_factor_reset", key="x", context={"username": "w"})
    assert Notice.objects.filter(channel="sms").count() == 1


def test_a_code_can_be_guessed_only_so_often(
    user: User, with_sms: None, internet: responses.RequestsMock
) -> None:
    answer(internet, Code="OK", Message="OK")
    channel = channels.add_sms_channel(user=user, number="13812345678")
    code = json.loads(sms_calls(internet)[0]["TemplateParam"])["code"]
    for _ in range(channels.CODE_TRIES):
        with pytest.raises(channels.ChannelRefused):
            channels.confirm_sms_channel(channel=channel, code="nonsense")
    with pytest.raises(channels.ChannelRefused):
        channels.confirm_sms_channel(channel=channel, code=code)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"Code": "isv.BUSINESS_LIMIT_CONTROL", "Message": "too many"}, "waiting"),
        ({"Code": "isv.MOBILE_NUMBER_ILLEGAL", "Message": "no number"}, "failed"),
        ({"Code": "InvalidAccessKeyId.NotFound", "Message": "no key", "status": 404}, "waiting"),
    ],
)
def test_what_the_provider_says_decides_whether_it_is_tried_again(
    user: User, with_sms: None, internet: responses.RequestsMock, fields: dict[str, Any], state: str
) -> None:
    code = fields["Code"]
    ChannelFactory(user=user, kind="sms", label="138", address="13812345678")
    answer(internet, **fields)
    services.notify(user=user, kind="rental_ended", key="x", context={"ends_at": timezone.now()})
    notices.send_notice(Notice.objects.get(channel="sms").pk)
    notice = Notice.objects.get(channel="sms")
    assert notice.state == state
    assert code in notice.error
    assert len(internet.calls) == 1


def test_a_text_message_is_not_sent_twice_when_the_line_broke(
    user: User, with_sms: None, internet: responses.RequestsMock
) -> None:
    internet.reset()
    internet.add("POST", "https://dysmsapi.aliyuncs.com/", body=requests.ReadTimeout("slow"))
    with pytest.raises(sms.SmsFailed) as failure:
        sms.send_notice("13812345678", "subject")
    assert failure.value.is_in_doubt
    assert len(internet.calls) == 1


@pytest.mark.parametrize("typed", ["12345", "23812345678", "138123456789", "+1 2025550123", "１38"])
def test_a_number_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(sms.NumberRefused):
        sms.read_number(typed)


def test_text_messages_are_not_offered_when_they_are_not_configured(
    user: User, sign_in: Callable[[User], Client], internet: responses.RequestsMock
) -> None:
    client = sign_in(user)
    assert (
        "13812345678"
        not in client.post("/account/channels/", {"kind": "sms", "number": "13812345678"}).content.decode()
    )
    assert not Channel.objects.exists()
    assert not internet.calls
