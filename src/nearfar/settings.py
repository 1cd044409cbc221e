"""The base of all configuration: frozen, typed, and aware of which keys decide results."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]

Name = TypeVar("Name")


def each_once(names: tuple[Name, ...]) -> tuple[Name, ...]:
    """Refuse a list that names something twice."""
    if len(set(names)) != len(names):
        raise ValueError("each name once")
    return names


Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(each_once)]


class Settings(BaseModel):
    """A table of settings: frozen, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide speed, memory or wording, and never a result."""

    def identity(self) -> dict[str, Any]:
        """The fields that decide results, as plain values: equal where two settings compute the same."""
        return self.model_dump(mode="json", exclude=set(self.without_effect))
