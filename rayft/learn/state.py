"""The variables that a step changes, and those that it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayft.learn.step import Task


def state_variables(task: Task) -> list[Any]:
    """All variables that a step of any phase may change, in a fixed order, and the optimizer's of this phase."""
    network = task.network
    moving = [variable for variable in network.model.variables if id(variable) not in network.fixed]
    average = task.average.state if task.average else []
    return [*moving, *task.updater.state, *average, task.loss_scale.scale, task.loss_scale.good_steps]


def frozen_variables(task: Task) -> list[Any]:
    """The weights that stay as they are in every phase, a teacher's among them, in a fixed order."""
    own = [variable for variable in task.network.model.weights if id(variable) in task.network.fixed]
    return own if task.teacher is None else [*own, *task.teacher.variables]
