"""Devices, found by their node key."""

import re
from collections.abc import Iterator
from typing import Any

from django.urls import reverse

from acl.devices.models import Device
from derpmgmt.lib.finding import MOST_FOUND, Found, begins_with

# Fewer digits may be anything: a number, the beginning of a name.
KEY_START = re.compile(r"nodekey:([0-9a-f]{1,64})|([0-9a-f]{8,64})", re.IGNORECASE)


def key_start(text: str) -> str:
    """The beginning of a node key that `text` is, as it is stored; "" where it is none."""
    match = KEY_START.fullmatch(text)
    return (match[1] or match[2]).lower() if match else ""


def search(text: str, user: Any) -> Iterator[Found]:
    """Answer to "search": devices by their node key or its beginning."""
    if not (start := key_start(text)):
        return
    found = Device.objects.visible_to(user).filter(begins_with("node_key", start))
    for device in found.select_related("rental__user").order_by()[:MOST_FOUND]:
        about = f"{device.rental} · {device.get_status_display()} · {device.node_key[:16]}…"
        url = reverse("admin:acl_device_change", args=[device.pk])
        yield Found(str(Device._meta.verbose_name_plural), str(device), about, url)
