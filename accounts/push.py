"""Push messages by the services that people have on their phones; the only place that knows apprise.

People give us addresses that our machine then asks, so only named services are taken, each with the hosts of its own: no
service that somebody runs themselves, nothing that could be pointed at our network. What may stand in an address beside its
keys (time limits, proxies, other hosts) is cut off.
"""

import logging
import re
import sys
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from accounts.brand import current_brand
from accounts.push_answers import listening, refusal_in
from derpmgmt.lib.outgoing import never_connected
from derpmgmt.lib.refusals import NotSent, Refusal

# apprise's schema → the name people know, and the only host an address may name where it names one at all.
SERVICES: dict[str, tuple[Any, str]] = {
    "wecombot": (_("WeCom group robot"), ""),
    "dingtalk": (_("DingTalk robot"), ""),
    "feishu": (_("Feishu robot"), ""),
    "schan": (_("ServerChan"), ""),
    "wxpusher": ("WxPusher", ""),
    "pushplus": ("PushPlus", ""),
    "barks": ("Bark", "api.day.app"),
    "pushdeers": ("PushDeer", "api2.pushdeer.com"),
    "tgram": ("Telegram", ""),
    "pover": ("Pushover", ""),
    "discord": ("Discord", ""),
    "slack": ("Slack", ""),
}
# What is taken for another: people copy the first from manuals, and nothing goes unencrypted.
ALIASES = {"bark": "barks", "pushdeer": "pushdeers"}
# Where a service gives people a web address to copy, they may paste that.
WEB_HOOKS = ("qyapi.weixin.qq.com", "oapi.dingtalk.com", "open.feishu.cn", "discord.com", "hooks.slack.com")
LONGEST = 500
# What stands in place of a brand's name that is none.
NAME_IN_ASCII = "DERP"
# Some services take their time, and what was not answered is not sent again.
READ_SECONDS = 15.0

NOT_UNDERSTOOD = gettext_noop("The address is no longer understood; remove it and add it again.")
NOT_TAKEN = gettext_noop("It did not say why.")
UNREACHABLE = gettext_noop("It could not be reached.")
IN_DOUBT = gettext_noop("The service did not answer as it should; the message may have arrived all the same.")


class AddressRefused(Refusal):
    """Nothing can be sent to an address like this."""

    code, field = "address_refused", "address"


class PushFailed(NotSent):
    """The service did not take the message; `is_in_doubt` also where one of several receivers may have got it."""


@dataclass(frozen=True)
class PushAddress:
    """An address that may be used: `url` is the secret, `label` what pages show."""

    url: str
    label: str

    def __repr__(self) -> str:
        return f"PushAddress({self.label})"


def read_address(text: str) -> PushAddress:
    """The address that a person typed, in apprise's form or as the service shows it. Raises `AddressRefused`."""
    text = text.strip()
    schema, separator, rest = text.partition("://")
    schema = ALIASES.get(schema.lower(), schema.lower())
    host = re.split(r"[/?#:]", rest, maxsplit=1)[0].lower()
    is_web_hook = schema == "https" and host in WEB_HOOKS
    if not separator or len(text) > LONGEST or not (is_web_hook or schema in SERVICES):
        names = ", ".join(str(name) for name, _host in SERVICES.values())
        raise AddressRefused(_("This is none of the services we can send to: %(names)s.") % {"names": names})
    url = f"{schema}://{rest}" if is_web_hook else f"{schema}://{rest.partition('?')[0]}"
    service = _service(url)
    if service is None:
        raise AddressRefused(_("The address is not complete, or one of its keys is mistyped."))
    # Written anew by apprise: what we did not look at is gone.
    url = str(service.url(privacy=False)).partition("?")[0]
    service = _service(url)
    schema = url.partition("://")[0]
    if service is None or schema not in SERVICES:
        raise AddressRefused(_("The address is not complete, or one of its keys is mistyped."))
    name, own_host = SERVICES[schema]
    if own_host and (service.host or own_host, service.port or 443) != (own_host, 443):
        raise AddressRefused(
            _("Only %(host)s is taken for %(name)s, no server of one's own.")
            % {"host": own_host, "name": name}
        )
    return PushAddress(url, f"{name} ••••{re.sub(r'[^A-Za-z0-9]', '', url)[-4:]}")


def _service(url: str) -> Any:
    # Imported where it is needed: it loads a hundred services, and most processes send nothing.
    from apprise import Apprise, AppriseAsset

    # Some services show it to people, others get it as a header, where only ASCII may stand.
    name = current_brand().name
    name = name if name.isascii() else NAME_IN_ASCII
    # secure_logging masks the keys in apprise's own log.
    asset = AppriseAsset(app_id=name, app_desc=name, app_url="", secure_logging=True)
    return Apprise.instantiate(url, asset=asset, suppress_exceptions=True)


class _Failures(logging.Handler):
    """Notes what a service writes of its failures, in this thread, and the error each time: to its caller it only says no."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.words: list[str] = []
        self.errors: list[BaseException | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.words.append(record.getMessage())
            # It is written where the error is caught; None where there was an answer.
            self.errors.append(sys.exc_info()[1])


def send(url: str, *, title: str, text: str) -> None:
    """Send a message to an address that `read_address` has made. Raises `PushFailed`."""
    from apprise import NotifyType

    service = _service(url)
    if service is None:
        raise PushFailed(NOT_UNDERSTOOD)
    service.socket_read_timeout = READ_SECONDS
    apprise_log, failures = logging.getLogger("apprise"), _Failures()
    apprise_log.addHandler(failures)
    try:
        with listening(service) as bodies:
            is_taken = service.notify(
                title=title, body=_shortened(service, title, text), notify_type=NotifyType.INFO
            )
    finally:
        apprise_log.removeHandler(failures)
    if is_taken:
        if words := refusal_in(service, bodies):
            raise PushFailed(_without_keys(words, url)[:300])
        return
    broken = [error for error in failures.errors if _is_of_line(error) and not never_connected(error)]
    # An address may name several receivers, of whom some may have got it.
    if broken or len(failures.errors) < len(service):
        raise PushFailed(IN_DOUBT, is_in_doubt=True)
    if all(never_connected(error) for error in failures.errors):
        raise PushFailed(UNREACHABLE)
    words = " ".join(" ".join(failures.words).split())
    raise PushFailed(_without_keys(words, url)[:300] or NOT_TAKEN)


def _shortened(service: Any, title: str, text: str) -> str:
    """The text as far as the service takes it: WeCom counts bytes, apprise characters."""
    room = service.body_maxlen - len(title.encode()) - 2
    if len(text.encode()) <= room or type(service).__name__ != "NotifyWeComBot":
        return text
    return text.encode()[: room - 3].decode(errors="ignore") + "…"


def _is_of_line(error: BaseException | None) -> bool:
    from requests import RequestException

    return isinstance(error, RequestException)


def _without_keys(words: str, url: str) -> str:
    address = url.partition("://")[2]
    for key in re.split(r"[/@:?]+", f"{address}/{unquote(address)}"):
        if len(key) > 3:
            words = words.replace(key, "••••")
    return words
