import pytest
from django.contrib.auth import get_user
from django.test import Client, RequestFactory, override_settings

from derpmgmt.lib import limits
from derpmgmt.lib.address import client_ip, client_network
from tests.factories import PASSWORD, UserFactory


def _try(client: Client, email: str, address: str) -> int:
    data = {"login": email, "password": "wrong-secret-1"}
    return client.post("/accounts/login/", data, REMOTE_ADDR=address).status_code


def test_account_is_limited_when_tried_from_many_addresses(db: None, client: Client) -> None:
    user = UserFactory()
    codes = [_try(client, user.email, f"203.0.113.{n}") for n in range(11)]
    assert codes == [200] * 10 + [429]
    # The right password does not help either, and the case of the address makes no other account of it.
    data = {"login": user.email.upper(), "password": PASSWORD}
    assert client.post("/accounts/login/", data, REMOTE_ADDR="203.0.113.99").status_code == 429
    assert not get_user(client).is_authenticated


@pytest.mark.slow
@pytest.mark.django_db
def test_address_is_limited_when_it_tries_many_accounts(client: Client) -> None:
    codes = [_try(client, f"u{n}@example.com", "203.0.113.9") for n in range(31)]
    assert codes == [200] * 30 + [429]
    assert _try(client, "u1@example.com", "203.0.113.10") == 200


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "data", "times"),
    [
        ("/accounts/signup/", {"email": "a@example.com", "password1": "short"}, 5),
        ("/accounts/password/reset/", {"email": "a{}@example.com"}, 20),
    ],
)
def test_limit_page_says_how_long_when_reached(
    client: Client, path: str, data: dict[str, str], times: int
) -> None:
    client.cookies["django_language"] = "en"
    # Each address has a limit of its own for mails.
    answers = [
        client.post(path, {name: value.format(n) for name, value in data.items()}) for n in range(times + 1)
    ]
    assert all(answer.status_code in {200, 302} for answer in answers[:-1])
    response = answers[-1]
    assert response.status_code == 429
    seconds = int(response["Retry-After"])
    assert 0 < seconds <= 3600
    assert f"Try again in {-(-seconds // 60)} minute" in response.content.decode()


@pytest.mark.django_db
def test_code_page_is_limited_by_address(client: Client) -> None:
    codes = [client.post("/accounts/confirm-email/", {"code": "X"}).status_code for _ in range(31)]
    assert codes[-1] == 429
    assert 429 not in codes[:-1]


def test_nothing_is_counted_when_the_cache_is_away(caplog: pytest.LogCaptureFixture) -> None:
    away = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    request = RequestFactory().post("/")
    with override_settings(CACHES=away):
        for _ in range(3):
            limits.consume(request, group="test", key="k", rate="1/h")
    assert "the cache is away" in caplog.text


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "expected"),
    [
        (0, "203.0.113.7", "198.51.100.1", "203.0.113.7"),
        (1, "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        (1, "10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (2, "10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        (2, "203.0.113.7", "198.51.100.1", "203.0.113.7"),
        (1, "10.0.0.1", "", "10.0.0.1"),
        (1, "10.0.0.1", "not an address", "10.0.0.1"),
        (0, "::ffff:203.0.113.7", "", "203.0.113.7"),
        (0, "2001:DB8::1", "", "2001:db8::1"),
        (1, "", "198.51.100.1", "198.51.100.1"),
        (0, "", "198.51.100.1", "0.0.0.0"),  # noqa: S104
    ],
)
def test_client_address_is_believed_only_as_far_as_proxies_are_trusted(
    proxies: int, peer: str, forwarded: str, expected: str
) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
    with override_settings(TRUSTED_PROXIES=proxies):
        assert client_ip(request) == expected


def test_one_household_counts_once_when_it_has_a_whole_ipv6_network() -> None:
    requests = [
        RequestFactory().get("/", REMOTE_ADDR=ip) for ip in ("2001:db8:1:2::a", "2001:db8:1:2:ffff::b")
    ]
    assert {client_network(request) for request in requests} == {"2001:db8:1:2::/64"}
