"""Where Django finds the admin pages of both rooms."""

from serials.numbers import admin as numbers
from serials.rentals import admin as rentals

__all__ = ["numbers", "rentals"]
