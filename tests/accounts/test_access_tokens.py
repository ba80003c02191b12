"""Tokens of the API: what they open, for whom, and until when."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts import services
from accounts.access import tokens
from accounts.access.models import ApiToken, KeptAnswer, Scope, SignUpCode
from accounts.jobs import delete_old_access
from accounts.models import OperationLog, User
from derpmgmt.lib.crypto import keyed_hash
from tests.api import Api
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db
ADDRESS = "198.51.100.7"


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    tokens.forget_known()


def make(user: User, **more: object) -> tuple[ApiToken, str]:
    given = {"name": "till", "scopes": ["read"], "expires_at": None, **more}
    return tokens.create_token(user=user, **given)  # type: ignore[arg-type]


def staff() -> User:
    user = UserFactory(role=User.Role.ADMIN)
    services.enrol_second_factor(user=user, secret="JBSWY3DPEHPK3PXP")
    return user


def test_a_token_opens_the_api_and_is_kept_nowhere() -> None:
    user = UserFactory()
    token, text = make(user)
    known = tokens.find_token(text, ADDRESS)
    assert known
    assert known.user == user
    assert known.scopes == {"read"}
    row = ApiToken.objects.filter(pk=token.pk).values().get()
    assert not any(text[len(tokens.PREFIX) :] in str(value) for value in row.values())
    assert row["hint"] == text[-4:]


@pytest.mark.parametrize("text", ["", "derpmgmt_", "derpmgmt_wrong", "other", "derpmgmt_" + "x" * 200])
def test_what_is_no_token_opens_nothing(text: str) -> None:
    make(UserFactory())
    assert tokens.find_token(text, ADDRESS) is None


def test_last_use_is_noted_once_a_minute_or_from_elsewhere() -> None:
    _token, text = make(UserFactory())
    noted = []
    moments = [(0, ADDRESS), (30, ADDRESS), (40, "198.51.100.8"), (50, "198.51.100.8"), (101, "198.51.100.8")]
    begin = datetime(2031, 3, 5, tzinfo=UTC)
    for seconds, address in moments:
        with time_machine.travel(begin + timedelta(seconds=seconds), tick=False):
            tokens.forget_known()
            tokens.find_token(text, address)
        row = ApiToken.objects.get()
        assert row.last_used_at
        noted.append(((row.last_used_at - begin).total_seconds(), row.last_used_ip))
    assert noted == [
        (0, ADDRESS),
        (0, ADDRESS),
        (40, "198.51.100.8"),
        (40, "198.51.100.8"),
        (101, "198.51.100.8"),
    ]


def test_a_second_read_within_a_second_asks_no_database(django_assert_num_queries: object) -> None:
    _token, text = make(UserFactory())
    tokens.find_token(text, ADDRESS)
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert tokens.find_token(text, ADDRESS)
    tokens.forget_known()
    with django_assert_num_queries(1):  # type: ignore[operator]
        assert tokens.find_token(text, ADDRESS)


def test_it_opens_nothing_once_it_has_ended_was_revoked_or_its_owner_is_shut_out() -> None:
    user = UserFactory()
    token, text = make(user)
    _other, short = make(user, expires_at=timezone.now() + timedelta(hours=1))
    # Also where the process still knows it.
    assert tokens.find_token(short, ADDRESS)
    with time_machine.travel(timezone.now() + timedelta(hours=2), tick=False):
        assert tokens.find_token(short, ADDRESS) is None
    tokens.forget_known()
    assert tokens.find_token(text, ADDRESS)
    assert tokens.revoke_token(token=token, by=user)
    assert not tokens.revoke_token(token=token, by=user)
    tokens.forget_known()
    assert tokens.find_token(text, ADDRESS) is None
    _third, text = make(user)
    assert tokens.find_token(text, ADDRESS)
    services.ban_user(user=user, by=None)
    tokens.forget_known()
    assert tokens.find_token(text, ADDRESS) is None


def test_a_changed_role_leaves_no_token() -> None:
    user = UserFactory(role=User.Role.DISTRIBUTOR)
    _token, text = make(user, scopes=["read", "sell"])
    services.change_user(user=user, by=None, username=user.username, language="en", role=User.Role.USER)
    tokens.forget_known()
    assert tokens.find_token(text, ADDRESS) is None


@pytest.mark.parametrize(
    ("role", "refused"),
    [
        (User.Role.USER, ["sell", "operate"]),
        (User.Role.DISTRIBUTOR, ["operate"]),
        (User.Role.ADMIN, []),
    ],
)
def test_a_token_is_made_for_nothing_that_its_owner_may_not_do(role: User.Role, refused: list[str]) -> None:
    user = staff() if role == User.Role.ADMIN else UserFactory(role=role)
    for scope in Scope:
        if scope in refused:
            with pytest.raises(tokens.TokenRefused) as raised:
                make(user, scopes=[scope])
            assert raised.value.field == "scopes"
        else:
            make(user, scopes=[scope])
    with pytest.raises(tokens.TokenRefused):
        make(user, scopes=[])
    with pytest.raises(tokens.TokenRefused):
        make(user, scopes=["all"])


def test_staff_make_none_without_a_second_factor() -> None:
    with pytest.raises(services.NotAllowed):
        make(UserFactory(role=User.Role.SUPERADMIN))


def test_what_cannot_be_a_token_is_refused() -> None:
    user = UserFactory()
    for given, field in [
        ({"name": " \n"}, "name"),
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at"),
    ]:
        with pytest.raises(tokens.TokenRefused) as raised:
            make(user, **given)
        assert raised.value.field == field
    services.ban_user(user=user, by=None)
    with pytest.raises(services.NotAllowed):
        make(user)


def test_there_is_a_bound_and_signing_in_keeps_the_newest() -> None:
    user = UserFactory()
    ends = timezone.now() + timedelta(hours=1)
    signed_in = [make(user, is_sign_in=True, expires_at=ends)[1] for _ in range(tokens.MOST_TOKENS + 2)]
    assert ApiToken.objects.filter(is_sign_in=True).count() == tokens.MOST_TOKENS
    assert tokens.find_token(signed_in[0], ADDRESS) is None
    assert tokens.find_token(signed_in[-1], ADDRESS)
    for number in range(tokens.MOST_TOKENS):
        make(user, name=f"till {number}")
    with pytest.raises(tokens.TokenRefused):
        make(user)


def test_making_and_revoking_are_written_down_and_signing_in_is_not() -> None:
    user = UserFactory()
    token, _text = make(user, ip=ADDRESS)
    make(user, is_sign_in=True)
    tokens.revoke_token(token=token, by=user, ip=ADDRESS)
    lines = OperationLog.objects.filter(action__startswith="token.").order_by("pk")
    assert [(line.action, line.target, line.ip) for line in lines] == [
        ("token.created", str(token), ADDRESS),
        ("token.revoked", str(token), ADDRESS),
    ]


def test_what_is_done_with_a_token_names_it() -> None:
    user = UserFactory()
    with services.acting(user.pk, ADDRESS, "till"):
        services.change_user(user=user, by=user, username="another", language="en", role=user.role)
    line = OperationLog.objects.get(action="user.changed")
    assert (line.detail["token"], line.ip) == ("till", ADDRESS)


def test_old_ones_are_deleted_and_others_stay() -> None:
    user, now = UserFactory(), timezone.now()
    kept = [make(user, name="kept")[0], make(user, name="new", expires_at=now + timedelta(days=1))[0]]
    revoked, _text = make(user, name="revoked")
    tokens.revoke_token(token=revoked, by=user)
    ended, _text = make(user, is_sign_in=True, expires_at=now + timedelta(hours=1))
    SignUpCode.objects.create(email_hash="a", code_hash="a", ends_at=now + timedelta(minutes=15))
    KeptAnswer.objects.create(user=user, key_hash="a", request_hash="a")
    delete_old_access()
    assert ApiToken.objects.count() == 4
    with time_machine.travel(now + timedelta(hours=26), tick=False):
        delete_old_access()
    assert not ApiToken.objects.filter(pk=ended.pk).exists()
    assert not SignUpCode.objects.exists()
    assert not KeptAnswer.objects.exists()
    assert ApiToken.objects.filter(pk=revoked.pk).exists()
    with time_machine.travel(now + timedelta(days=100), tick=False):
        delete_old_access()
    assert set(ApiToken.objects.values_list("pk", flat=True)) == {kept[0].pk}


def test_a_closed_account_leaves_neither_tokens_nor_answers() -> None:
    user = UserFactory()
    make(user)
    KeptAnswer.objects.create(user=user, key_hash=keyed_hash("x", "y"), request_hash="a")
    services.close_account(user=user, by=user, reason="")
    assert not ApiToken.objects.exists()
    assert not KeptAnswer.objects.exists()


def test_the_api_says_in_which_words_a_token_does_not_do() -> None:
    user = UserFactory()
    answer = Api(user, scopes=[Scope.ACT]).get("user/me")
    assert answer.status_code == 403
    assert (answer.json()["code"], answer.json()["details"]) == ("scope_missing", {"scope": "read"})
    wrong = Api()
    wrong.headers["Authorization"] = "Bearer derpmgmt_wrong"
    answer = wrong.get("user/me")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
