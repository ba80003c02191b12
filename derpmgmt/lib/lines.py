"""Texts of one line that people give: names, notes, reasons. They are put in order in one place, whichever way they come in."""

from typing import Any

from django import forms
from django.db import models


def one_line(text: str) -> str:
    """`text` on one line: what cannot be printed (line breaks, control, format and private characters) counts as a space, as all
    spaces do, and of several in a row one is left, of those around it none."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


class LineFormField(forms.CharField):
    """A text of one line in a form; its length counts as it is kept."""

    def to_python(self, value: Any) -> Any:
        value = super().to_python(value)
        return (one_line(value) or self.empty_value) if isinstance(value, str) else value


class LineField(models.CharField):
    """A text of one line in a table: nothing else is ever written to it, by forms, services or queries (`one_line`)."""

    def to_python(self, value: Any) -> Any:
        value = super().to_python(value)
        return one_line(value) if isinstance(value, str) else value

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = super().pre_save(model_instance, add)
        if isinstance(value, str):
            value = one_line(value)
            setattr(model_instance, self.attname, value)
        return value

    def formfield(self, **kwargs: Any) -> Any:
        return super().formfield(**{"form_class": LineFormField, **kwargs})

    def deconstruct(self) -> Any:
        """As Django's own: to the database there is no difference."""
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.CharField", args, kwargs
