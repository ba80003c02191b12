"""How the API answers, whatever it is asked: one shape, the right language, no session needed, nothing in HTML."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client, override_settings

from accounts import services
from accounts.access.rooms import Room
from accounts.models import User
from derpmgmt import api
from derpmgmt.lib.limits import TooManyRequests
from serials.numbers.models import SerialNumber
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db

SHAPE = {"success", "code", "message", "field", "details"}


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whoever asks for `user/me` meets `error`."""

    def fall(**_fields: Any) -> None:
        raise error

    monkeypatch.setattr("accounts.api.people.Me", fall)


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda one: one.get("nothing/here"), 404, "not_found"),
        (lambda one: one.get("user/me/"), 404, "not_found"),
        (lambda one: one.post("user/me"), 405, "wrong_method"),
        (lambda one: one.get("user/me", {"colour": "red"}), 422, "invalid"),
        (lambda _one: Api().get("user/me"), 401, "not_signed_in"),
        (lambda one: one.get("user/me", Authorization="Basic eDp5"), 401, "not_signed_in"),
    ],
)
def test_a_failure_has_one_shape(ask: Callable[[Api], Any], status: int, code: str) -> None:
    answer = ask(Api(UserFactory()))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == SHAPE
    assert answer.json()["success"] is False
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_unknown_parameter_is_named() -> None:
    assert Api(UserFactory()).get("user/me", {"colour": "red"}).json()["field"] == "colour"


def test_a_wrong_method_says_which_are_right() -> None:
    assert Api(UserFactory()).post("user/me").headers["Allow"] == "GET"


def test_a_limit_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, TooManyRequests(90))
    answer = Api(UserFactory()).get("user/me")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "90")
    assert answer.json()["message"] == "Too many tries. Wait 2 minutes, then try again."


def test_a_fault_is_logged_and_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(monkeypatch, ZeroDivisionError("the words of the fault"))
    answer = Api(UserFactory()).get("user/me")
    assert (answer.status_code, answer.json()["code"]) == (500, "fault")
    assert "the words of the fault" not in answer.content.decode()
    assert "the words of the fault" in caplog.text


def test_a_database_that_is_away_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OperationalError("gone away"))
    answer = Api(UserFactory()).get("user/me")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (
        503,
        "database",
        "5",
    )


@pytest.mark.parametrize(
    ("asked", "own", "told"),
    [
        ("en", "zh-hans", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "en", "zh-hans"),
        ("fr, en;q=0.5", "zh-hans", "en"),
        ("fr", "en", "en"),
        ("*", "en", "en"),
        ("", "en", "en"),
        ("", "zh-hans", "zh-hans"),
        ("x" * 600, "en", "en"),
    ],
)
def test_it_speaks_the_language_that_is_asked_for_else_the_accounts(asked: str, own: str, told: str) -> None:
    answer = Api(UserFactory(language=own), language=asked).get("user/me", {"colour": "red"})
    words = {"en": "There is no such parameter.", "zh-hans": "没有这个参数。"}
    assert (answer.json()["message"], answer.headers["Content-Language"]) == (words[told], told)


def test_a_stranger_is_spoken_to_in_the_panels_language() -> None:
    assert Api(language="").get("user/me").json()["message"].startswith("请先登录")


def test_each_path_answers_without_its_version_and_by_head() -> None:
    one = Api(UserFactory())
    whole = one.get("user/me")
    assert Client().get("/api/user/me", headers=one.headers).content == whole.content
    head = Client().head("/api/v1/user/me", headers=one.headers)
    assert (head.status_code, head.content) == (200, b"")


def test_it_needs_no_session_and_leaves_none() -> None:
    answer = Api(UserFactory()).get("user/me")
    assert not answer.cookies


def test_a_browser_that_is_signed_in_may_ask_too() -> None:
    user = UserFactory()
    client = world.sign_in(user)
    answer = client.get("/api/v1/user/me")
    assert (answer.json()["user_id"], answer.json()["scopes"]) == (user.pk, None)


def test_a_wrong_token_is_refused_also_in_a_browser_that_is_signed_in() -> None:
    client = world.sign_in(UserFactory())
    answer = client.get("/api/v1/user/me", headers={"Authorization": "Bearer derpmgmt_wrong"})
    assert answer.status_code == 401


def test_staff_need_the_second_factor_in_their_session() -> None:
    assert world.enter(User.Role.ADMIN, has_factor=True).get("/api/v1/user/me").status_code == 200
    answer = world.enter(User.Role.ADMIN, has_factor=False).get("/api/v1/user/me")
    assert (answer.status_code, answer.json()["code"]) == (403, "second_factor_missing")


def test_a_session_that_does_something_proves_that_its_page_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    user = UserFactory()
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    with acting_path() as path:
        answer = client.post(path, {}, content_type="application/json")
        assert (answer.status_code, answer.json()["code"]) == (403, "csrf")
        client.cookies["csrftoken"] = "a" * 32
        answer = client.post(path, {}, content_type="application/json", headers={"X-CSRFToken": "a" * 32})
        assert answer.status_code == 200
        # A token needs none, whatever cookies come along.
        assert (
            client.post(path, {}, content_type="application/json", headers=Api(user).headers).status_code
            == 200
        )


class acting_path:
    """An address of the API that does something, while this lasts."""

    def __enter__(self) -> str:
        from ninja import NinjaAPI

        from derpmgmt.lib.api import Answer

        room = Room("try")

        @room.does("/it", Answer)
        def try_it(request: Any) -> Answer:
            """Nothing."""
            return Answer()

        made = NinjaAPI(urls_namespace="try", docs_url=None, openapi_url=None)
        made.add_exception_handler(Exception, api._refuse)
        made.add_router("try", room)
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(api, "api", made)
        # The middleware keeps its resolver: another one is made with each handler.
        return "/api/v1/try/it"

    def __exit__(self, *_error: object) -> None:
        self._patch.undo()


def test_a_banned_person_gets_nowhere() -> None:
    user = UserFactory()
    client = world.sign_in(user)
    services.ban_user(user=user, by=None)
    assert client.get("/api/v1/user/me").status_code == 401
    assert Api(user).get("user/me").status_code == 401


@override_settings(ALLOWED_HOSTS=["panel.example.com"])
def test_another_host_is_refused_in_json() -> None:
    answer = Client().get("/api/v1/user/me", headers={"Host": "evil.example.com"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_the_description_names_every_operation_once() -> None:
    described = Client().get("/api/openapi.json").json()
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
    assert all(path.startswith("/api/v1/") for path in described["paths"])


def test_two_classes_of_one_name_are_not_one_in_the_description() -> None:
    described = Client().get("/api/openapi.json").json()["components"]["schemas"]
    assert described["RentalStatus"]["enum"] == Rental.Status.values
    assert described["SerialNumberStatus"]["enum"] == SerialNumber.Status.values


def test_the_description_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Client().get("/api/openapi.json")
    monkeypatch.setattr(api, "describe", None)
    again = Client().get("/api/openapi.json")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Content-Type"] == "application/json"


def test_each_field_of_the_description_says_what_it_is() -> None:
    described = Client().get("/api/openapi.json").json()
    # What a name does not say, a description or an example does.
    bare = [
        f"{name}.{field}"
        for name, schema in described["components"]["schemas"].items()
        for field, of in schema.get("properties", {}).items()
        if not ({"description", "examples", "const", "$ref", "enum"} & of.keys())
    ]
    assert not bare


def test_the_page_of_the_description_has_nothing_from_elsewhere() -> None:
    answer = Client().get("/api/docs")
    page = answer.content.decode()
    assert "https://" not in page
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert (
        json.loads(page.partition('id="swagger-settings">')[2].partition("</script>")[0])["url"]
        == "/api/openapi.json"
    )
