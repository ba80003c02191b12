"""Rows ticked in a list of the admin, and what is chosen for them there."""

from collections.abc import Iterable
from typing import Any

from django.db.models import Model
from django.test import Client


def tick(client: Client, url: str, verb: str, rows: Iterable[Model], **more: Any) -> Any:
    """Choose an action of the list for these rows; the answer is the page that asks, or what says why there is none."""
    data = {"action": verb, "_selected_action": [row.pk for row in rows], **more}
    return client.post(url, data, follow=True)


def confirm(client: Client, page: Any, **typed: Any) -> Any:
    """Press the button of the page that asks, with what was typed there."""
    assert page.redirect_chain, "nothing asked"
    address = page.redirect_chain[-1][0]
    return client.post(address, {"row": page.context["rows"], **typed}, follow=True)


def do(client: Client, url: str, verb: str, rows: Iterable[Model], **more: Any) -> Any:
    """Choose an action of the list for these rows, and confirm it."""
    return confirm(client, tick(client, url, verb, rows, **more))


def said(answer: Any) -> list[str]:
    """What the page tells of what was done, lines as lines."""
    return [
        str(message).replace("<br>", "").strip() for message in answer.context["messages"] if str(message)
    ]
