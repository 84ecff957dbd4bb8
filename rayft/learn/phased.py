"""The phases of a run: one task for each, over one network."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.objective import Objective
from rayft.learn.distill import Teacher
from rayft.learn.loop import Plan
from rayft.learn.step import Task
from rayft.model.network import Network


class Phased:
    """Holds the network and the task of the phase that it is in.

    Attributes:
        network: In its current phase.
        task: Loss and update of this phase; its steps are compiled anew, since other blocks are frozen.
    """

    def __init__(
        self,
        config: RunConfig,
        network: Network,
        plan: Plan,
        strategy: tf.distribute.Strategy,
        teacher: Teacher | None = None,
        *,
        cached: bool = False,
        objective: Objective | None = None,
    ) -> None:
        """Begin in the first phase.

        Args:
            config: The run.
            network: As ``build_network`` gives it.
            plan: For the steps of an epoch and of the whole run.
            strategy: Spans the workers.
            teacher: Gives a part of the loss, where the run distils.
            cached: The batches hold activations at the freeze boundary.
            objective: What the labels ask of the network; one label and no weights if not given.
        """
        self._config, self._strategy, self._teacher, self._cached = config, strategy, teacher, cached
        self._objective = objective
        self._per_epoch, self._total_steps = plan.steps_per_epoch, plan.total_steps
        self.network = network.at(0)
        # A task of a later phase is built after its weights have moved.
        moving = [variable for variable in network.model.variables if id(variable) not in network.fixed]
        held = config.train.l2_sp.alpha and len(network.phases) > 1
        self._anchors = {id(variable): np.array(variable) for variable in moving} if held else None
        self.task = self._new_task()

    def phase_of(self, step: int) -> int:
        """Return the index of the phase that takes ``step``, counted from 0 over the whole run."""
        epoch = step // self._per_epoch
        return max(index for index, phase in enumerate(self.network.phases) if phase.first_epoch <= epoch)

    def rate_factor(self, step: int) -> float:
        """Return the factor on the learning rate at ``step``."""
        return self.network.phases[self.phase_of(step)].rate

    def describe(self, step: int) -> dict[str, int]:
        """Return what a journal says of the phase at ``step``: stage from 1, blocks_frozen; empty for one phase."""
        if len(self.network.phases) == 1:
            return {}
        index = self.phase_of(min(step, self._total_steps - 1))
        return {"stage": index + 1, "blocks_frozen": self.network.phases[index].depth}

    @property
    def end_step(self) -> int:
        """Where the current phase ends."""
        later = self.network.phases[self.network.phase + 1 :]
        return later[0].first_epoch * self._per_epoch if later else self._total_steps

    def go_to(self, step: int) -> bool:
        """Enter the phase that a checkpoint made after ``step`` steps was made in; tells whether it is another.

        The state of its task is to be restored.
        """
        return self._enter(self.phase_of(max(step - 1, 0)))

    def advance(self, step: int) -> bool:
        """Enter the phase that takes ``step``, with the state of the current one; tells whether it is another.

        Variables that were trained before keep the optimizer's state; those newly unfrozen start fresh.
        """
        earlier = self.task
        if not self._enter(self.phase_of(step)):
            return False
        self.task.carry_state(earlier)
        return True

    def _enter(self, phase: int) -> bool:
        if phase == self.network.phase:
            return False
        self.network = self.network.at(phase)
        self.task = self._new_task()
        return True

    def _new_task(self) -> Task:
        return Task(
            self._config,
            self.network,
            total_steps=self._total_steps,
            strategy=self._strategy,
            cached=self._cached,
            teacher=self._teacher,
            anchors=self._anchors,
            objective=self._objective,
        )
