"""What push services say in the body of an answer: WeCom, DingTalk and Feishu refuse a message with status 200, which apprise takes for sent.

https://developer.work.weixin.qq.com/document/path/91770 (`errcode`), https://open.dingtalk.com/document/robots/custom-robot-access (`errcode`),
https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot (`code`, before `StatusCode`).
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# apprise's schema → the fields of which one is 0 where the message was taken, and those with the reason where not.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "wecombot": (("errcode",), ("errmsg",)),
    "dingtalk": (("errcode",), ("errmsg",)),
    "feishu": (("code", "StatusCode"), ("msg", "StatusMessage")),
}
_LONGEST_BODY = 4000

_heard: ContextVar[list[bytes] | None] = ContextVar("heard", default=None)


class _Listening:
    """Stands in a plugin of apprise's for `requests`, and keeps the bodies of answers for whoever listens in this thread."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requests, name)

    def post(self, *args: Any, **options: Any) -> Any:
        answer = self._requests.post(*args, **options)
        if (heard := _heard.get()) is not None:
            heard.append(answer.content[:_LONGEST_BODY])
        return answer


@contextmanager
def listening(service: Any) -> Iterator[list[bytes]]:
    """The bodies that this service answers with meanwhile; none of services whose status is enough."""
    module = sys.modules[type(service).__module__]
    requests = getattr(module, "requests", None)
    if _schema(service) in _FIELDS and requests is not None and not isinstance(requests, _Listening):
        module.requests = _Listening(requests)  # type: ignore[attr-defined]
    heard: list[bytes] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def refusal_in(service: Any, bodies: list[bytes]) -> str:
    """Why the service did not take what it answered so; "" where it did, or says nothing that we understand."""
    codes, reasons = _FIELDS.get(_schema(service), ((), ()))
    for body in bodies:
        try:
            said = json.loads(body)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        code = next((said[name] for name in codes if name in said), 0)
        if code not in (0, "0"):
            reason = next((said[name] for name in reasons if said.get(name)), "")
            return f"{code} {reason}".strip()
    return ""


def _schema(service: Any) -> str:
    return type(service).__module__.rpartition(".")[2]
