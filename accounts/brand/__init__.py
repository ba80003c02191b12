"""Whose panel this is, as customers see it: `current_brand()`, in every template and mail as `brand`.

It is known in the process for some seconds, so that no page pays a query for it each time, and stands without the database: error pages
show what was known last.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import formataddr, parseaddr
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseFailed
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise, SimpleLazyObject
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from accounts.brand import colours
from accounts.brand.models import ONLY_ROW, BrandPicture, BrandSettings

log = logging.getLogger(__name__)

OWN_NAME = "derpmgmt"
KNOWN_SECONDS = 5.0
# A logo so many times as wide as high holds the name itself, so that is not written beside it.
WIDE = 2
ICP_URL = "https://beian.miit.gov.cn/"
POLICE_URL = "https://beian.mps.gov.cn/"


@dataclass(frozen=True)
class Contact:
    """A way to reach the operator: `kind` wechat, qq or mail; `url` is "" where there is nothing to open."""

    kind: str
    label: str | Promise
    value: str
    url: str = ""


@dataclass(frozen=True)
class Brand:
    """What pages and mails say of the operator; "" for what is not set."""

    name: str = OWN_NAME
    is_set: bool = False
    slogans: tuple[str, str] = ("", "")
    logo_url: str = ""
    logo_is_wide: bool = False
    icon_url: str = ""
    accent: str = ""
    on_accent: str = colours.WHITE
    style_url: str = ""
    contacts: tuple[Contact, ...] = ()
    code_url: str = ""
    code_text: str = ""
    buy_url: str = ""
    icp: str = ""
    icp_url: str = ""
    police: str = ""
    police_url: str = ""
    footer: str = ""
    terms_url: str = ""
    privacy_url: str = ""

    @property
    def slogan(self) -> str:
        """The slogan in the language of the page."""
        return in_language(*self.slogans)


def in_language(chinese: str, english: str) -> str:
    """Of a text that is there twice the one in the language of the page; where that is empty, the other."""
    return (english or chinese) if get_language() == "en" else (chinese or english)


# Until when (time.monotonic) the brand is known, how often it was forgotten, and the brand itself.
_known: tuple[float, int, Brand | None] = (float("-inf"), 0, None)


# One that is looked at before it is saved; for the request that asked for it alone.
_previewed: ContextVar[Brand | None] = ContextVar("previewed", default=None)


@contextmanager
def previewing(brand: Brand) -> Iterator[None]:
    """While this lasts, pages and mails that are made here say `brand`."""
    token = _previewed.set(brand)
    try:
        yield
    finally:
        _previewed.reset(token)


def current_brand() -> Brand:
    """The brand as it was a few seconds ago at most; while the database is away, the last that was known. Raises nothing."""
    global _known
    if previewed := _previewed.get():
        return previewed
    until, times, brand = _known
    if brand and time.monotonic() < until:
        return brand
    try:
        row = BrandSettings.objects.select_related("logo", "icon", "code").defer(
            *(f"{slot}__data" for slot in ("logo", "icon", "code"))
        )
        brand = make_brand(row.filter(pk=ONLY_ROW).first())
    except DatabaseFailed as error:
        log.warning("the brand was not read: %s", type(error).__name__)  # its text may name a password
        if brand is None:
            return Brand()
    # One that was changed meanwhile is not to be taken for the new one.
    if _known[1] == times:
        _known = (time.monotonic() + KNOWN_SECONDS, times, brand)
    return brand


def known_brand() -> Brand | None:
    """The last that was known, without the database; None where this process has read none yet."""
    return _known[2]


def sender() -> str:
    """From whom mails come: the address of DERPMGMT_EMAIL_FROM, under the brand's name once there is one."""
    brand = current_brand()
    if not brand.is_set:
        return settings.DEFAULT_FROM_EMAIL
    return formataddr((brand.name, parseaddr(settings.DEFAULT_FROM_EMAIL)[1]))


def forget_brand() -> None:
    """Have the brand read again by whoever asks next."""
    global _known
    _known = (float("-inf"), _known[1] + 1, _known[2])


def context(request: HttpRequest) -> dict[str, Any]:
    """`brand` for every template; read only where a template names it."""
    return {"brand": SimpleLazyObject(current_brand)}


def make_brand(row: BrandSettings | None) -> Brand:
    """What is shown of `row`, which may also be one that is not saved."""
    if row is None:
        return Brand()
    return Brand(
        name=row.name or OWN_NAME,
        is_set=bool(row.name),
        slogans=(row.slogan, row.slogan_en),
        logo_url=picture_url(row.logo),
        logo_is_wide=row.logo is not None and row.logo.width > WIDE * row.logo.height,
        icon_url=picture_url(row.icon),
        accent=row.accent,
        on_accent=str(colours.text_on(colours.read_colour(row.accent))) if row.accent else colours.WHITE,
        style_url=reverse("brand-style", args=[colours.digest(row.accent)]) if row.accent else "",
        contacts=tuple(_contacts(row)),
        code_url=picture_url(row.code),
        code_text=row.code_text,
        buy_url=row.buy_url,
        icp=row.icp,
        icp_url=ICP_URL if row.icp else "",
        police=row.police,
        police_url=_police_url(row.police),
        footer=row.footer,
        terms_url=row.terms_url or (reverse("terms") if row.terms_text or row.terms_text_en else ""),
        privacy_url=row.privacy_url
        or (reverse("privacy") if row.privacy_text or row.privacy_text_en else ""),
    )


EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def picture_url(picture: BrandPicture | None) -> str:
    """Where a picture is served; "" for none."""
    if picture is None:
        return ""
    kind = EXTENSIONS[picture.content_type]
    return reverse("brand-picture", kwargs={"digest": picture.digest, "kind": kind})


def _contacts(row: BrandSettings) -> list[Contact]:
    every = [
        Contact("wechat", _("WeChat"), row.wechat),
        Contact("qq", "QQ", row.qq),
        Contact("mail", _("E-mail"), row.email, f"mailto:{row.email}"),
    ]
    return [contact for contact in every if contact.value]


def _police_url(number: str) -> str:
    """The police's own page about a filing number such as 京公网安备 11010502030001号."""
    digits = re.search(r"\d{8,}", number)
    return f"{POLICE_URL}#/query/webSearch?code={digits[0]}" if digits else POLICE_URL if number else ""
