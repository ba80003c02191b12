"""Where Django finds the models of both rooms; whoever uses one takes it from its room."""

from serials.numbers import models as numbers
from serials.rentals import models as rentals

__all__ = ["numbers", "rentals"]
