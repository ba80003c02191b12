"""Shapes of what comes in and goes out as JSON.

Times are ISO 8601 in UTC; bytes and fen are integers, with the unit in the name. What comes in may have no field that nobody
knows, and nothing is taken for what it is not ("1" is no number).
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

from derpmgmt.lib.lines import one_line

# A primary key, as both databases have them.
Pk = Annotated[int, Field(ge=1, le=2**63 - 1)]
# A text of one line: line breaks and what cannot be printed become spaces.
Line = Annotated[str, Field(max_length=200), AfterValidator(one_line)]


def _to_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# A moment with its zone; goes out in UTC.
Moment = Annotated[AwareDatetime, PlainSerializer(_to_utc, return_type=str, when_used="unless-none")]


class Input(BaseModel):
    """What somebody sends. A field that nobody knows is refused by its name."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Output(BaseModel):
    """A thing in an answer; made from a dictionary or from an object with these attributes."""

    model_config = ConfigDict(from_attributes=True)


class Answer(Output):
    """An answer that something is done or found."""

    success: Literal[True] = Field(default=True, description="Always true; a failure has false.")
    message: str = Field(default="", description="A sentence for people, in the language that was asked for.")


class Failure(BaseModel):
    """An answer that something is not done."""

    success: Literal[False] = Field(default=False, description="Always false.")
    code: str = Field(
        description="What is the case, for programs; keeps its meaning.", examples=["not_found"]
    )
    message: str = Field(description="The same as a sentence for people, in the language that was asked for.")
    field: str = Field(default="", description="The input that it is about; empty for none.")
    details: dict[str, str | int | list[str]] = Field(
        default_factory=dict, description="Values of the sentence, and all wrong inputs with what is wrong."
    )
