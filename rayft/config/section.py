"""What every section of the settings has in common, and types that several use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rayft.config.problems import IMPORT_PATTERN, PASSWORD
from rayft.credentials import has_password

ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATTERN)]

Name = Annotated[str, StringConstraints(min_length=1)]
Side = Annotated[int, Field(ge=8, le=4096)]
ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
Width = Annotated[int, Field(ge=1, le=65536)]


class Section(BaseModel):
    """Base of every section: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _bools_and_passwords(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, str) and has_password(value):
            raise PydanticCustomError(PASSWORD, "holds a password")
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not allowed here")
        if isinstance(value, list) and any(isinstance(item, bool) for item in value):
            raise ValueError("true and false are not allowed in this list")
        return value


def is_auto(value: object) -> bool:
    """Whether a field is left for the run to settle."""
    return value == "auto"
