"""Whose panel this is: who may say so, and how soon every page knows it."""

from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import brand, services
from accounts.brand.models import BrandPicture, BrandSettings
from accounts.models import OperationLog, User
from accounts.services import change_brand
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


def test_the_panel_goes_by_its_own_name_until_a_brand_is_set() -> None:
    brand.forget_brand()
    now = brand.current_brand()
    assert (now.name, now.is_set, now.contacts, now.logo_url, now.terms_url) == (
        "derpmgmt",
        False,
        (),
        "",
        "",
    )


def test_a_changed_brand_is_known_at_once_and_costs_pages_no_query() -> None:
    change_brand(by=None, name="云桥加速", wechat="yunqiao_kefu", qq="123456", email="kefu@example.com")
    now = brand.current_brand()
    assert (now.name, now.is_set) == ("云桥加速", True)
    assert [(one.kind, one.value, one.url) for one in now.contacts] == [
        ("wechat", "yunqiao_kefu", ""),
        ("qq", "123456", ""),
        ("mail", "kefu@example.com", "mailto:kefu@example.com"),
    ]
    with CaptureQueriesContext(connection) as queries:
        assert brand.current_brand() is now
    assert len(queries) == 0


def test_what_another_process_changed_is_known_some_seconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    change_brand(by=None, name="Old")
    assert brand.current_brand().name == "Old"
    BrandSettings.objects.update(name="New")
    assert brand.current_brand().name == "Old"
    now = brand.time.monotonic()
    monkeypatch.setattr(brand.time, "monotonic", lambda: now + brand.KNOWN_SECONDS + 0.1)
    assert brand.current_brand().name == "New"


def test_one_that_is_changed_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    change_brand(by=None, name="Old")
    make = brand.make_brand

    def change_meanwhile(row: Any) -> brand.Brand:
        made = make(row)
        monkeypatch.setattr(brand, "make_brand", make)
        change_brand(by=None, name="New")
        return made

    monkeypatch.setattr(brand, "make_brand", change_meanwhile)
    brand.current_brand()
    assert brand.current_brand().name == "New"


def test_while_the_database_is_away_the_last_that_was_known_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    change_brand(by=None, name="云桥加速")
    assert brand.current_brand().name == "云桥加速"
    brand.forget_brand()

    def fail(*_args: Any) -> Any:
        raise OperationalError("gone away")

    monkeypatch.setattr(brand, "make_brand", fail)
    assert brand.current_brand().name == brand.known_brand().name == "云桥加速"


def test_only_a_super_admin_changes_the_brand_and_the_log_says_what() -> None:
    for role in (User.Role.USER, User.Role.DISTRIBUTOR, User.Role.ADMIN):
        with pytest.raises(services.NotAllowed):
            change_brand(by=UserFactory(role=role), name="Mine")
    assert not BrandSettings.objects.filter(name="Mine").exists()
    owner = UserFactory(role=User.Role.SUPERADMIN)
    change_brand(by=owner, name="云桥加速", terms_text="Long.")
    change_brand(by=owner, name="云桥加速")  # nothing changed
    line = OperationLog.objects.get(action="brand.changed")
    assert line.actor == owner
    assert line.detail["changes"] == {"name": ["", "云桥加速"], "terms_text": ""}


def test_the_police_number_leads_to_the_polices_page() -> None:
    change_brand(by=None, police="京公网安备 11010502030001号", icp="京ICP备2024000001号-1")
    now = brand.current_brand()
    assert now.police_url == "https://beian.mps.gov.cn/#/query/webSearch?code=11010502030001"
    assert now.icp_url == "https://beian.miit.gov.cn/"


def test_a_picture_is_served_for_good_under_its_own_address(client: Client) -> None:
    BrandPicture.objects.create(digest="a" * 32, content_type="image/png", width=1, height=1, data=b"\x89PNG")
    change_brand(by=None, logo=BrandPicture.objects.get())
    url = brand.current_brand().logo_url
    response = client.get(url)
    assert (response.status_code, response.content) == (200, b"\x89PNG")
    assert response["Content-Type"] == "image/png"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in response["Cache-Control"]
    assert "Cookie" not in response.get("Vary", "")
    for digest, kind in (("b" * 32, "png"), ("a" * 32, "jpg"), ("a" * 32, "svg")):
        wrong = reverse("brand-picture", kwargs={"digest": digest, "kind": kind})
        assert client.get(wrong).status_code == 404
    assert client.post(url).status_code == 405
