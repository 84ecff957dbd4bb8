from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from rayft.learn.sums import BATCHES_PER_CALL, make_sum


@pytest.mark.parametrize("count", [1, BATCHES_PER_CALL, 2 * BATCHES_PER_CALL + 3])
def test_every_batch_is_added_once_and_progress_is_told(count):
    values, told = np.arange(2.0 * (count + 2)).reshape(-1, 2), []
    task = SimpleNamespace(strategy=tf.distribute.get_strategy())
    sum_over = make_sum(task, lambda batch: batch["value"], 2, lambda: told.append(1))
    batches = iter(tf.data.Dataset.from_tensor_slices({"value": values}))
    np.testing.assert_array_equal(sum_over(batches, count), values[:count].sum(axis=0))
    assert len(told) == -(-count // BATCHES_PER_CALL)
    # It goes on where it ended.
    np.testing.assert_array_equal(next(batches)["value"], values[count])
