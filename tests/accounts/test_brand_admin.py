"""The admin's page of the brand: what is typed is kept, looked at before it is saved, and written down."""

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from accounts.brand import current_brand
from accounts.brand.models import BrandPicture, BrandSettings
from accounts.models import OperationLog, User
from accounts.services import change_brand
from tests.accounts.test_brand_pictures import bytes_of
from tests.panel import world

pytestmark = pytest.mark.django_db
PAGE = "/admin/accounts/brandsettings/1/change/"
TYPED: dict[str, Any] = {
    "name": "云桥加速", "slogan": "跨境组网，直连不绕路", "slogan_en": "", "accent": "#1A7F5C", "wechat": "yunqiao_kefu", "qq": "800 123 456",
    "email": "kefu@example.com", "code_text": "微信扫码", "buy_url": "https://shop.example.com/derp", "icp": "京ICP备12345678号-1",
    "police": "京公网安备11010502030001号", "footer": "© 2026 云桥", "terms_url": "", "terms_text": "# 一\n您好", "terms_text_en": "",
    "privacy_url": "https://example.com/privacy", "privacy_text": "", "privacy_text_en": "",
}  # fmt: skip


@pytest.fixture
def owner(db: None) -> Client:
    client = world.enter(User.Role.SUPERADMIN, has_factor=True)
    client.get("/admin/accounts/brandsettings/")
    return client


def file(name: str, content: bytes | None = None) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, bytes_of(name) if content is None else content)


def test_what_is_typed_is_what_pages_say_afterwards(owner: Client) -> None:
    response = owner.post(PAGE, {**TYPED, "logo": file("plain.png"), "code": file("noted.jpg")})
    assert response.status_code == 200  # the code is too small
    response = owner.post(PAGE, {**TYPED, "logo": file("plain.png")}, follow=True)
    assert response.status_code == 200
    brand = current_brand()
    assert (brand.name, brand.accent, brand.on_accent) == ("云桥加速", "#1a7f5c", "#ffffff")
    assert {contact.kind: contact.value for contact in brand.contacts}["qq"] == "800123456"
    assert (brand.terms_url, brand.privacy_url) == ("/terms/", "https://example.com/privacy")
    front = Client().get("/").content.decode()
    for words in (
        "云桥加速",
        "跨境组网，直连不绕路",
        "yunqiao_kefu",
        "京ICP备12345678号-1",
        "京公网安备11010502030001号",
        "© 2026 云桥",
    ):
        assert words in front
    for address in (
        "https://shop.example.com/derp",
        "https://beian.miit.gov.cn/",
        brand.logo_url,
        brand.style_url,
    ):
        assert f'"{address}"' in front
    assert Client().get(brand.logo_url)["Content-Type"] == "image/png"
    line = OperationLog.objects.get(action="brand.changed")
    assert line.actor is not None
    assert line.detail["changes"]["name"] == ["", "云桥加速"]


def test_a_refused_picture_loses_nothing_that_was_typed(owner: Client) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    page = owner.post(
        PAGE, {**TYPED, "logo": file("plain.png"), "icon": file("icon.svg", svg)}
    ).content.decode()
    assert "SVG" in page
    for name, value in TYPED.items():
        if value and name != "accent":
            assert value in page, name
    assert not BrandSettings.objects.exclude(name="").exists()
    # The logo that was right is there already, and goes with what is sent next.
    kept = BrandPicture.objects.get()
    assert f'name="logo-kept" value="{kept.pk}"' in page
    owner.post(PAGE, {**TYPED, "logo-kept": kept.pk})
    assert BrandSettings.objects.get().logo == kept
    assert current_brand().logo_url in Client().get("/").content.decode()


def test_a_picture_stays_until_it_is_taken_away(owner: Client) -> None:
    owner.post(PAGE, {**TYPED, "logo": file("plain.png")})
    kept = BrandPicture.objects.get().pk
    assert f'name="logo-kept" value="{kept}"' in owner.get(PAGE).content.decode()
    owner.post(PAGE, {**TYPED, "name": "云桥", "logo-kept": kept})
    assert BrandSettings.objects.get().logo_id == kept
    owner.post(PAGE, {**TYPED, "logo-kept": kept, "logo-removed": "on"})
    assert BrandSettings.objects.get().logo is None
    page = owner.post(PAGE, {**TYPED, "logo-kept": "f" * 32}).content.decode()
    assert "errorlist" in page


def test_pictures_that_nothing_names_go_after_a_day(owner: Client) -> None:
    owner.post(PAGE, {**TYPED, "logo": file("plain.png")})
    owner.post(PAGE, {**TYPED, "logo": file("lossy.webp")})
    assert BrandPicture.objects.count() == 2  # a page that is open still shows the first
    BrandPicture.objects.update(created_at="2020-01-01T00:00:00Z")
    owner.post(PAGE, {**TYPED, "name": "云桥", "logo-kept": BrandSettings.objects.get().logo_id})
    assert [picture.content_type for picture in BrandPicture.objects.all()] == ["image/webp"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accent", "red"),
        ("accent", "#12345"),
        ("qq", "12"),
        ("qq", "abc"),
        ("police", "京公网安备123号"),
        ("buy_url", "javascript:alert(1)"),
        ("buy_url", "ftp://example.com/"),
        ("terms_url", "https://example.com/terms"),  # there is a text already
        ("name", "x" * 41),
    ],
)
def test_what_cannot_be_is_told_at_its_field(owner: Client, field: str, value: str) -> None:
    response = owner.post(PAGE, TYPED | {field: value})
    assert list(response.context["adminform"].form.errors) == [field]
    assert not BrandSettings.objects.exclude(name="").exists()


@pytest.mark.parametrize(("typed", "kept"), [("1a7f5c", "#1a7f5c"), ("#ABC", "#aabbcc"), ("", "")])
def test_a_colour_is_understood_as_people_write_it(owner: Client, typed: str, kept: str) -> None:
    owner.post(PAGE, TYPED | {"accent": typed})
    assert BrandSettings.objects.get().accent == kept


@pytest.mark.parametrize("page", ["front", "sign-in", "sign-up", "mail"])
def test_it_is_looked_at_before_it_is_saved(owner: Client, page: str) -> None:
    address = f"/admin/accounts/brandsettings/preview/{page}/"
    response = owner.post(address, {**TYPED, "logo": file("plain.png"), "accent": "#ffe000"})
    words = response.content.decode()
    assert response.status_code == 200
    assert "云桥加速" in words
    assert "yunqiao_kefu" in words
    # Yellow takes dark words.
    assert "#ffe000;color:#000000" in words if page == "mail" else "/brand/ffe000-" in words
    assert "derpmgmt" not in words.replace("/static/", "")
    # As a visitor has it.
    assert "/accounts/logout/" not in words
    assert "no-store" in response["Cache-Control"]
    is_plain = "script" not in response["Content-Security-Policy"]
    assert ("'unsafe-inline'" in response["Content-Security-Policy"]) is (page == "mail")
    assert is_plain
    # Nothing is saved, and nobody else sees it.
    assert not BrandSettings.objects.exclude(name="").exists()
    assert "云桥加速" not in Client().get("/").content.decode()
    assert owner.get(address).status_code == 404
    refused = owner.post(address, TYPED | {"accent": "red"})
    assert refused.status_code == 422
    assert "errorlist" in refused.content.decode()


def test_admins_read_it_and_only_super_admins_change_it() -> None:
    change_brand(by=None, name="云桥加速")
    client = world.enter(User.Role.ADMIN, has_factor=True)
    page = client.get(PAGE)
    assert "云桥加速" in page.content.decode()
    assert 'name="name"' not in page.content.decode()
    assert client.post(PAGE, TYPED | {"name": "Mine"}).status_code == 403
    assert client.post("/admin/accounts/brandsettings/preview/front/", TYPED).status_code == 403
    assert BrandSettings.objects.get().name == "云桥加速"
