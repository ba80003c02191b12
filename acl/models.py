"""Where Django finds the models of both rooms; whoever uses one takes it from its room."""

from acl.devices import models as devices
from acl.maps import models as maps

__all__ = ["devices", "maps"]
