"""How long steps wait, against sources and sums whose delays are known."""

import time

import numpy as np
import pytest
import tensorflow as tf
from small_backbone import save_small_backbone
from test_learn_step import make_batch, make_config, make_task

from rayft.learn.chief import Chief
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.measures import step_figures
from rayft.learn.waits import CollectiveTime

PAUSE_S = 0.05
STEPS = 12


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_small_backbone(tmp_path_factory.mktemp("model"))


def batches(pause_s):
    """Give batches, each after a pause."""
    made = [make_batch(step=step, seed=step) for step in range(STEPS)]

    def generate():
        for batch in made:
            time.sleep(pause_s)
            yield batch

    signature = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in made[0].items()}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def train(backbone, source, **settings):
    task = make_task(make_config(backbone, train=settings))
    return list(train_epochs(task, source, dict, Plan(STEPS, 1)))


def pausing_step(task, batch):
    """A step of the user's own that takes as long again."""
    from rayft.learn.step import train_step

    def pause(step):
        time.sleep(PAUSE_S)
        return step

    with tf.control_dependencies([tf.numpy_function(pause, [batch["step"]], tf.int64)]):
        return train_step(task, batch)


def test_a_slow_source_is_a_stall_of_as_long(backbone):
    seen = train(backbone, batches(PAUSE_S))
    stall_s = sum(progress.input_stall_s for progress in seen)
    assert stall_s == pytest.approx(STEPS * PAUSE_S, rel=0.25)
    assert all(progress.input_stall_s <= progress.seconds for progress in seen)
    # The first call compiles; of the others most is waiting.
    figures = step_figures(seen[-1])
    assert figures["rayft_train_input_stall_seconds"] == pytest.approx(PAUSE_S, rel=0.25)
    assert figures["rayft_train_step_seconds"] >= figures["rayft_train_input_stall_seconds"]
    assert figures["rayft_train_collective_wait_seconds"] == 0


def test_batches_that_are_there_in_time_stall_nobody(backbone):
    source = batches(PAUSE_S / 2).prefetch(4)
    seen = train(backbone, source, step="test_learn_waits:pausing_step")
    assert sum(len(progress.losses) for progress in seen) == STEPS
    assert sum(progress.seconds for progress in seen[1:]) > (STEPS - 1) * PAUSE_S
    assert sum(progress.input_stall_s for progress in seen[1:]) < 0.15 * (STEPS - 1) * PAUSE_S


@pytest.mark.parametrize("in_loop", [False, True])
def test_the_time_of_a_sum_counts_and_what_comes_before_does_not(in_loop):
    collective_time = CollectiveTime()

    def slowly(values):
        def pause(values):
            time.sleep(PAUSE_S)
            return values

        # Stateless, as TensorFlow orders what has state by itself, and would wait for it without being told to.
        paused = tf.numpy_function(pause, [values], values.dtype, stateful=False)
        return tf.ensure_shape(paused, values.shape)

    def step(values):
        # A gradient that is long in coming, then a sum that is long in coming.
        return collective_time.measure(lambda own: slowly(own) + own, slowly(values))

    @tf.function
    def steps(values):
        if not in_loop:
            return step(values)
        return tf.while_loop(lambda index, _: index < 3, lambda index, now: (index + 1, step(now)), (0, values))[1]

    total = steps(tf.constant([1.0, 2.0]))
    count = 3 if in_loop else 1
    np.testing.assert_array_equal(total, 2.0**count * np.array([1.0, 2.0]))
    assert collective_time.seconds == pytest.approx(count * PAUSE_S, rel=0.25)


def test_the_chief_counts_the_real_examples_of_each_step():
    class Session:
        class config:
            class data:
                global_batch_size = 16

        class plan:
            steps_per_epoch = 3

        class dataset:
            @staticmethod
            def size(split):
                return 40

    chief = Chief.__new__(Chief)
    chief._session = Session()
    assert [chief._examples_of(step) for step in range(7)] == [16, 16, 8, 16, 16, 8, 16]
