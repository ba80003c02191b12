"""Names of schemas in the OpenAPI document.

ninja makes the schemas of each operation by themselves and puts them together by their names: of two classes that are called alike, as
`Status` of two models, one would silently stand for both.
"""

import re

from ninja.openapi import schema
from ninja.schema import NinjaGenerateJsonSchema
from pydantic.json_schema import CoreModeRef, DefsRef

# Which class has which name.
_taken: dict[str, str] = {}


class _Names(NinjaGenerateJsonSchema):
    """A class within a class has the names of both: `RentalStatus`."""

    def get_defs_ref(self, core_mode_ref: CoreModeRef) -> DefsRef:
        """pydantic's own, with the first choice replaced. Raises ValueError where two classes have the same name."""
        found = super().get_defs_ref(core_mode_ref)
        place = re.sub(r":\d+", "", core_mode_ref[0])
        name = "".join(part for part in re.split(r"\W+", place) if part[:1].isupper())
        if _taken.setdefault(name, place) != place:
            raise ValueError(f"{_taken[name]} and {place} would both be {name}")
        self._prioritized_defsref_choices[found].insert(0, DefsRef(name))
        return found


def name_apart() -> None:
    """Have ninja use these names."""
    schema.NinjaGenerateJsonSchema = _Names  # type: ignore[misc]
