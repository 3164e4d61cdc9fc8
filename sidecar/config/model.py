"""What every section of the configuration is: closed (no unknown field), immutable, strict about types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Model(BaseModel):
    """One section of the file.

    Fields say what they are in `Field(description=…)`; the docstring of the class says what the section is.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        # Values may be secrets; problems show what the file says instead.
        hide_input_in_errors=True,
        model_title_generator=lambda model: model.__name__.removesuffix("Config"),
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong; what is allowed) for rules between fields; each field alone is right by then."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        found = tuple(self.contradictions())
        if found:
            raise ContradictionsError(found)
        return self


class ContradictionsError(ValueError):
    """Fields of one section that are wrong together: (field, message) pairs."""

    def __init__(self, found: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{field} {message}" for field, message in found))
        self.found = found
