"""Text messages by Alibaba Cloud's SMS; the only place that knows its SDK, which is an extra (`requirements-sms.txt`).

A text is a template that Alibaba Cloud has approved, with variables: `${subject}` in the one for notices, `${code}` in the one
that confirms a number. https://help.aliyun.com/document_detail/419273.html
"""

import json
import logging
import re
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from derpmgmt.lib.outgoing import never_connected
from derpmgmt.lib.refusals import NotSent, Refusal

log = logging.getLogger(__name__)

# The longest value of a template's variable.
LONGEST_VARIABLE = 35
CONNECT_MILLISECONDS, READ_MILLISECONDS = 5000, 10000
# The number is not one, or its owner has told the provider that they want nothing.
_FINAL = {"isv.MOBILE_NUMBER_ILLEGAL", "isv.BLACK_KEY_CONTROL_LIMIT", "isv.MOBILE_IN_BLACK"}

NOT_CONFIGURED = gettext_noop("Text messages are not configured.")
NOT_INSTALLED = gettext_noop("What requirements-sms.txt lists is not installed.")
UNREACHABLE = gettext_noop("It could not be reached.")


class NumberRefused(Refusal):
    """This is no mobile number in mainland China."""

    code, field = "no_mobile_number", "number"
    sentence = _("Type a mobile number of mainland China: eleven digits.")


class SmsFailed(NotSent):
    """The provider did not take the message."""


def is_configured() -> bool:
    """Whether the operator has given an account of Alibaba Cloud's SMS."""
    return bool(settings.SMS_ACCESS_KEY_ID)


def read_number(text: str) -> str:
    """The eleven digits of a mobile number however it is typed. Raises `NumberRefused`."""
    digits = re.sub(r"[\s\-()]", "", text)
    digits = re.sub(r"^(\+|00)?86(?=1\d{10}$)", "", digits)
    if not re.fullmatch(r"1[3-9]\d{9}", digits):
        raise NumberRefused
    return digits


def mask(number: str) -> str:
    """A number as pages show it: `138••••1234`."""
    return f"{number[:3]}••••{number[-4:]}"


def send_notice(number: str, subject: str) -> None:
    """Send a notice's subject. Raises `SmsFailed`."""
    _send(number, settings.SMS_NOTICE_TEMPLATE, subject=subject[:LONGEST_VARIABLE])


def send_code(number: str, code: str) -> None:
    """Send the code that confirms a number. Raises `SmsFailed`."""
    _send(number, settings.SMS_CODE_TEMPLATE, code=code)


def _client() -> Any:
    from alibabacloud_dysmsapi20170525.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    return Client(
        Config(
            access_key_id=settings.SMS_ACCESS_KEY_ID,
            access_key_secret=settings.SMS_ACCESS_KEY_SECRET,
            endpoint="dysmsapi.aliyuncs.com",
        )
    )


def _send(number: str, template: str, **variables: str) -> None:
    if not is_configured():
        raise SmsFailed(NOT_CONFIGURED)
    try:
        from alibabacloud_dysmsapi20170525.models import SendSmsRequest
        from darabonba.runtime import RuntimeOptions

        client = _client()
    except ImportError as error:
        log.error("text messages cannot be sent: %s", error)
        raise SmsFailed(NOT_INSTALLED) from error
    request = SendSmsRequest(
        phone_numbers=number,
        sign_name=settings.SMS_SIGN_NAME,
        template_code=template,
        template_param=json.dumps(variables, ensure_ascii=False),
    )
    runtime = RuntimeOptions(
        autoretry=False, connect_timeout=CONNECT_MILLISECONDS, read_timeout=READ_MILLISECONDS
    )
    try:
        body = client.send_sms_with_options(request, runtime).body
    except Exception as error:
        # The SDK raises errors of several families, and requests' own; only its answers carry a code.
        code = str(getattr(error, "code", "") or "")
        if not code and never_connected(getattr(error, "inner_exception", error)):
            raise SmsFailed(UNREACHABLE) from None
        reason = f"{type(error).__name__} {code}".strip()
        raise SmsFailed(reason, is_final=code in _FINAL, is_in_doubt=not code) from None
    if body.code != "OK":
        raise SmsFailed(f"{body.code}: {body.message}"[:300], is_final=body.code in _FINAL)
