"""Settings of a search over other settings."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from rayft.config.section import ImportPath, Section

Value = StrictBool | StrictInt | StrictFloat | StrictStr | list[StrictInt] | None
Whole = int
KINDS = ("choice", "grid", "uniform", "loguniform", "int")
_CONDITION = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(==|!=|<=|>=|<|>|in)\s*(.+?)\s*$")


class Condition(BaseModel):
    """When a dimension takes part: ``field operator value``.

    Attributes:
        field: Another dimension of the space.
        operator: One of == != < <= > >= in.
        value: Plain value; a list for ``in``.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    operator: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as ``freeze.depth != all``.

        Raises:
            ValueError: The text has another form.
        """
        match = _CONDITION.match(text)
        if not match:
            raise ValueError(f"when is {text!r}; the form is `field operator value`, such as `freeze.depth != all`")
        field, operator, written = match.groups()
        try:
            value = json.loads(written)
        except ValueError:
            value = [part.strip() for part in written.strip("[]").split(",")] if operator == "in" else written
        return cls(field=field, operator=operator, value=value)

    def holds(self, value: Any) -> bool:
        """Whether a value of the field meets the condition; ``all`` is deeper than any number."""
        if self.operator == "in":
            return value in self.value
        if self.operator in ("==", "!="):
            return (value == self.value) == (self.operator == "==")
        left, right = (float("inf") if each == "all" else each for each in (value, self.value))
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            raise ValueError(f"when compares {value!r} {self.operator} {self.value!r}; only numbers have an order")
        order = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}
        return order[self.operator]


class Dimension(BaseModel):
    """One searched field: exactly one way to draw its value, and when it takes part."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choice: Annotated[list[Value], Field(min_length=1)] | None = Field(None, description="One of these values.")
    grid: Annotated[list[Value], Field(min_length=1)] | None = Field(None, description="Each of these values.")
    uniform: tuple[float, float] | None = Field(None, description="[low, high], every number equally likely.")
    loguniform: tuple[float, float] | None = Field(None, description="[low, high], every power equally likely.")
    int: tuple[Whole, Whole] | None = Field(None, description="[low, high], whole numbers, both ends included.")
    when: str | None = Field(None, description="Takes part only when this holds, such as `freeze.depth != all`.")

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"has {', '.join(given) or 'no kind'}; give exactly one of {', '.join(KINDS)}")
        for kind in ("uniform", "loguniform", "int"):
            ends = getattr(self, kind)
            if ends and ends[0] >= ends[1]:
                raise ValueError(f"{kind} is {list(ends)}; the first end must be below the second")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform is {list(self.loguniform)}; both ends must be above 0")
        if self.when is not None:
            Condition.parse(self.when)
        return self

    @property
    def kind(self) -> str:
        """How a value is drawn."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def values(self) -> list[Any] | None:
        """The values of a choice or grid; None where there are endless ones."""
        if self.int is not None:
            return list(range(self.int[0], self.int[1] + 1))
        return self.choice if self.choice is not None else self.grid

    @property
    def condition(self) -> Condition | None:
        """The parsed ``when``."""
        return None if self.when is None else Condition.parse(self.when)


class SweepConfig(Section):
    """What is searched for, how, and for how long."""

    space: dict[str, Dimension] = Field(
        default_factory=dict,
        description="Searched fields: section.field to {choice|grid|uniform|loguniform|int: ..., when: ...}; "
        "empty means freeze depth and learning rate.",
    )
    metric: Literal["accuracy", "top5", "macro_f1", "log_loss", "ece"] | None = Field(
        None, description="Validation metric that decides; empty means train.metric."
    )
    trials: int = Field(16, ge=1, le=100_000, description="Trials of the search; a grid stops at its end.")
    time_budget_s: float | None = Field(None, gt=0, description="No new trial or epoch of the search after so long.")
    searcher: Literal["random", "grid", "optuna"] | ImportPath = Field(
        "random", description="random, grid, optuna (TPE), or module:name (see docs/sweep.md)."
    )
    scheduler: Literal["none", "asha", "hyperband", "pbt"] = Field(
        "asha", description="How poor trials are stopped early."
    )
    grace_epochs: int | None = Field(
        None, ge=1, description="Epochs before a trial may be stopped; empty means a tenth of train.epochs."
    )
    seeds: int = Field(1, ge=1, le=100, description="Seeds of each finalist, the search's own among them.")
    finalists: int = Field(3, ge=1, le=100, description="Best trials that are repeated when seeds is above 1.")
    refit: bool = Field(False, description="Train the winner anew on train and validation together.")
    max_concurrent: int | None = Field(None, ge=1, description="Trials at once; empty means as many as fit.")
    retries: int = Field(1, ge=0, le=100, description="New attempts after a trial failed.")
    trial: Literal["auto", "light", "distributed"] = Field(
        "auto", description="light: one process a trial; distributed: cluster.workers of them."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_dimension(cls, tree: Any) -> Any:
        """Check the space one by one, so that an error names the dimension."""
        space = tree.get("space") if isinstance(tree, dict) else None
        for path, raw in (space or {}).items() if isinstance(space, dict) else ():
            try:
                Dimension.model_validate(raw)
            except ValueError as error:
                raise ValueError(f"space.{path}: {_first_problem(error)}") from None
        return {**tree, "space": {}} if isinstance(tree, dict) and "space" in tree and space is None else tree

    @model_validator(mode="after")
    def _conditions_name_dimensions(self) -> SweepConfig:
        for path, dimension in self.space.items():
            condition = dimension.condition
            if condition is None:
                continue
            earlier = list(self.space)[: list(self.space).index(path)]
            if condition.field not in earlier:
                raise ValueError(
                    f"space.{path}: when names {condition.field!r}; only dimensions above it are allowed: "
                    f"{', '.join(earlier) or 'none'}"
                )
            for value in self.space[condition.field].values or self._ends(condition.field):
                condition.holds(value)
        return self

    def _ends(self, path: str) -> tuple[float, float]:
        dimension = self.space[path]
        return dimension.uniform or dimension.loguniform or (0.0, 0.0)


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problem: Any = error.errors()[0]
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    where = ".".join(map(str, problem["loc"]))
    allowed = f"one of {', '.join((*KINDS, 'when'))}"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {allowed} is allowed"
    return f"{where + ': ' if where else ''}{problem['msg'].lower()}; a mapping with {allowed} is allowed"
