from rayft.learn.patience import Patience


def waits(metric, values, min_delta=0.0):
    patience, waited = Patience(), []
    for value in values:
        patience = patience.after(metric, value, min_delta)
        waited.append(patience.waited)
    return waited, patience.best


def test_a_value_that_is_no_better_than_the_best_adds_to_the_wait():
    assert waits("accuracy", [0.5, 0.5, 0.6, 0.55, 0.6]) == ([0, 1, 0, 1, 2], 0.6)


def test_a_loss_improves_downwards():
    assert waits("log_loss", [1.0, 0.9, 1.1, 0.8]) == ([0, 0, 1, 0], 0.8)


def test_small_improvements_add_up_until_they_exceed_the_least_one():
    assert waits("accuracy", [0.5, 0.54, 0.58, 0.62], min_delta=0.1) == ([0, 1, 2, 0], 0.62)
