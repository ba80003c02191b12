"""What super admins type about the brand."""

import re
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.core.validators import URLValidator
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.brand import picture_url
from accounts.brand.models import BrandPicture, BrandSettings
from accounts.brand.pictures import LIMITS, PictureRefused, keep_picture, read_picture

LONGEST_PAPER = 50_000
# Names, not words to be translated.
ICP_EXAMPLE, POLICE_EXAMPLE = "京ICP备12345678号-1", "京公网安备11010502030001号"


@dataclass
class Upload:
    """What a form brings of one picture: a new file, the digest of the one that was shown, and whether that is to go."""

    file: UploadedFile | None
    kept: str
    is_removed: bool


class PictureInput(forms.FileInput):
    """A file beside the picture that is there, which may be taken away. One that was taken in stays, whatever else is wrong in the form."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Upload:
        return Upload(files.get(name), data.get(f"{name}-kept", ""), f"{name}-removed" in data)

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return False

    def format_value(self, value: Any) -> None:
        """No browser takes a file's name from a page."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        if isinstance(value, Upload):
            value = getattr(value.file, "taken_as", "") or ("" if value.is_removed else value.kept)
        picture = BrandPicture.objects.defer("data").filter(pk=value).first() if value else None
        context = {"name": name, "picture": picture, "url": picture_url(picture)}
        words = _("The file is too large: up to %(most)d KB are taken.")
        words %= {"most": int(self.attrs["data-most-bytes"]) // 1000}
        context["input"] = super().render(name, None, {**(attrs or {}), "data-too-large": words}, renderer)
        return render_to_string("accounts/widgets/picture.html", context)


class PictureField(forms.Field):
    """A picture of the brand, for one of `LIMITS`; its value is a row of `BrandPicture` or None."""

    widget = PictureInput

    def __init__(self, *, slot: str, **options: Any) -> None:
        self.limits = LIMITS[slot]
        super().__init__(required=False, **options)

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {
            "accept": "image/png,image/jpeg,image/webp",
            "data-most-bytes": str(self.limits.most_bytes),
        }

    def clean(self, value: Upload) -> BrandPicture | None:
        if value.file is not None:
            # One byte more than may be is enough to say so.
            value.file.seek(0)
            try:
                row = keep_picture(read_picture(value.file.read(self.limits.most_bytes + 1), self.limits))
            except PictureRefused as refusal:
                raise forms.ValidationError(str(refusal), code=refusal.code) from refusal
            value.file.taken_as = row.pk  # type: ignore[attr-defined]
            return row
        if value.is_removed or not value.kept:
            return None
        kept = BrandPicture.objects.defer("data").filter(pk=value.kept).first()
        if kept is None:
            raise forms.ValidationError(_("This picture is gone. Choose it once more."))
        return kept

    def has_changed(self, initial: Any, data: Any) -> bool:
        return data.file is not None or data.is_removed or (initial or "") != data.kept


def _address(label: Any, help_text: Any = "") -> forms.URLField:
    return forms.URLField(
        label=label,
        required=False,
        max_length=200,
        assume_scheme="https",
        validators=[URLValidator(schemes=["http", "https"])],
        help_text=help_text,
    )


_OTHERWISE = gettext_lazy("For pages in English; left empty, the Chinese one stands there.")


def _paper(label: Any, help_text: Any = "") -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        max_length=LONGEST_PAPER,
        widget=forms.Textarea(attrs={"rows": 12, "cols": 80}),
        help_text=help_text
        or gettext_lazy(
            "An empty line ends a paragraph, “# ” begins a heading, “## ” a smaller one, “- ” a point of a list. All else is shown as it is typed."
        ),
    )


class BrandForm(forms.ModelForm[BrandSettings]):
    """All of the brand; what is left empty is shown nowhere."""

    accent = forms.CharField(
        label=gettext_lazy("accent colour"),
        required=False,
        max_length=7,
        widget=forms.TextInput(attrs={"data-colour": "", "autocomplete": "off", "placeholder": "#066fd1"}),
        help_text=gettext_lazy(
            "Six hexadecimal digits, as #1a7f5c. Buttons have it; for words and for the dark look, shades that can be read are made of it."
        ),
    )
    logo = PictureField(
        slot="logo",
        label=gettext_lazy("logo"),
        help_text=gettext_lazy(
            "PNG, JPEG or WebP. One that is more than twice as wide as high stands in place of the name, any other beside it."
        ),
    )
    icon = PictureField(
        slot="icon",
        label=gettext_lazy("icon of the browser's tab"),
        help_text=gettext_lazy("As wide as high, 16 to 512 pixels."),
    )
    code = PictureField(
        slot="code",
        label=gettext_lazy("picture of a code"),
        help_text=gettext_lazy("The QR code of your WeChat, QQ group or shop; shown in the footer."),
    )
    buy_url = _address(
        gettext_lazy("where to buy"), gettext_lazy("Your shop, where customers get serial numbers.")
    )
    terms_url = _address(
        gettext_lazy("terms of service: address"), gettext_lazy("Where they stand elsewhere.")
    )
    terms_text = _paper(gettext_lazy("terms of service: text"))
    terms_text_en = _paper(gettext_lazy("terms of service: text in English"), _OTHERWISE)
    privacy_url = _address(
        gettext_lazy("privacy policy: address"), gettext_lazy("Where it stands elsewhere.")
    )
    privacy_text = _paper(gettext_lazy("privacy policy: text"))
    privacy_text_en = _paper(gettext_lazy("privacy policy: text in English"), _OTHERWISE)

    class Meta:
        model = BrandSettings
        fields = [
            "name", "slogan", "slogan_en", "accent", "logo", "icon", "wechat", "qq", "email", "code", "code_text", "buy_url",
            "icp", "police", "footer", "terms_url", "terms_text", "terms_text_en", "privacy_url",
            "privacy_text", "privacy_text_en",
        ]  # fmt: skip
        help_texts = {
            "name": gettext_lazy(
                "What customers read wherever the panel says its name: pages, mails, authenticator apps, maps."
            ),
            "slogan": gettext_lazy("One line below the name in the footer."),
            "slogan_en": _OTHERWISE,
            "icp": format_lazy(
                gettext_lazy("As {example}; leads to beian.miit.gov.cn."), example=ICP_EXAMPLE
            ),
            "police": format_lazy(
                gettext_lazy("As {example}; leads to the police's page about it."), example=POLICE_EXAMPLE
            ),
            "footer": gettext_lazy("For example who stands behind it: © 2026 …"),
        }

    def clean_accent(self) -> str:
        """The colour in lower case; the sign before it and the short form may be left to us."""
        text = str(self.cleaned_data["accent"]).lower().removeprefix("#")
        if re.fullmatch(r"[0-9a-f]{3}", text):
            text = "".join(digit * 2 for digit in text)
        if text and not re.fullmatch(r"[0-9a-f]{6}", text):
            raise forms.ValidationError(_("A colour has six hexadecimal digits, as #1a7f5c."))
        return text and f"#{text}"

    def clean_qq(self) -> str:
        number = re.sub(r"\s", "", str(self.cleaned_data["qq"]))
        if number and not re.fullmatch(r"[1-9]\d{4,11}", number):
            raise forms.ValidationError(_("A QQ number has 5 to 12 digits."))
        return number

    def clean_police(self) -> str:
        number = str(self.cleaned_data["police"])
        if number and not re.search(r"(?<!\d)\d{14}(?!\d)", number):
            words = _("A police filing number holds 14 digits, as: %(example)s")
            raise forms.ValidationError(words % {"example": POLICE_EXAMPLE})
        return number

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        for paper in ("terms", "privacy"):
            if data.get(f"{paper}_url") and (data.get(f"{paper}_text") or data.get(f"{paper}_text_en")):
                self.add_error(
                    f"{paper}_url", _("Give an address or a text, not both: customers could read only one.")
                )
        return data

    def values(self) -> dict[str, Any]:
        """What the form's fields hold, by name; only of a form that is valid."""
        return {name: self.cleaned_data[name] for name in self.Meta.fields}
