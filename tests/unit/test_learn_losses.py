import numpy as np
import pytest
import tensorflow as tf

from rayft.learn.losses import cross_entropy, focal

LABELS = tf.constant([0, 2, 1, 2])
LOGITS = tf.constant(np.random.default_rng(0).normal(size=(4, 3)) * 2, tf.float32)


@pytest.mark.parametrize("loss", [cross_entropy, focal])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_give_the_loss_of_their_labels(loss, smoothing):
    whole = loss(LABELS, LOGITS, smoothing=smoothing)
    soft = loss(tf.one_hot(LABELS, 3), LOGITS, smoothing=smoothing)
    np.testing.assert_allclose(soft, whole, rtol=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, focal])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(loss, smoothing):
    other = tf.constant([1, 1, 0, 2])
    mixed = loss(0.3 * tf.one_hot(LABELS, 3) + 0.7 * tf.one_hot(other, 3), LOGITS, smoothing=smoothing)
    want = 0.3 * loss(LABELS, LOGITS, smoothing=smoothing) + 0.7 * loss(other, LOGITS, smoothing=smoothing)
    np.testing.assert_allclose(mixed, want, rtol=1e-5)


def test_focal_loss_by_hand():
    logits = tf.math.log(tf.constant([[0.25, 0.75]]))
    assert float(focal(tf.constant([0]), logits)[0]) == pytest.approx(0.75**2 * -np.log(0.25), rel=1e-5)
    assert float(focal(tf.constant([1]), logits, smoothing=0.2)[0]) == pytest.approx(
        0.25**2 * (-0.9 * np.log(0.75) - 0.1 * np.log(0.25)), rel=1e-5
    )
