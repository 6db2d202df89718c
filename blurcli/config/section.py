"""The base class of the sections of a preset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.config import JsonDict


def one_of(choices: Iterable[str]) -> AfterValidator:
    """A check that a value is one of these names."""
    names = list(choices)

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"input should be one of {', '.join(map(repr, names))}")
        return value

    return AfterValidator(check)


FREE: JsonDict = {"free": True}
FIXED: JsonDict = {"free": False}
"""For `json_schema_extra` of a key that differs from its section in this."""


class Section(BaseModel):
    """Common rules: no unknown keys, no changes after construction, no infinities.

    Attributes:
        free: whether a run can continue with other values of its keys, because they do not change what is learned.
    """

    free: ClassVar[bool] = False
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _keep_booleans_apart(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic reads `steps: yes` as 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in (bool, bool | None):
            raise ValueError("true and false (or yes and no) are not allowed here")
        return value
