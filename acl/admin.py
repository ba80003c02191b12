"""Where Django finds the admin pages of both rooms."""

from acl.devices import admin as devices
from acl.maps import admin as maps

__all__ = ["devices", "maps"]
