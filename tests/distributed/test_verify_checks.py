"""The checks of `rayft verify`, without Ray."""

from dataclasses import replace

import numpy as np
import pytest
from running import make_home

from rayft.config import load_config
from rayft.data.dataset import open_dataset
from rayft.data.order import replica_positions
from rayft.distributed.verify import MOST_WORKERS, VerifyReport, _check_counts, _compare
from rayft.errors import ConfigError
from rayft.learn import batches
from rayft.learn.batches import Batches
from rayft.learn.parity import BATCH, EXAMPLES, _own_examples, shrink, subset
from rayft.learn.parity_trace import Trace
from rayft.learn.place import Place

TRACE = Trace(
    losses=[2.0, 1.0],
    gradient=np.array([3.0, 4.0]),
    metrics={"log_loss": 0.5},
    weights=np.array([3.0, 4.0]),
    same_on_all_ranks=True,
    resumed_equal=True,
    examples_per_epoch=EXAMPLES,
    head_only=False,
)


def failed(name, **changes):
    """Return the failed checks when two workers differ from the others in ``changes``."""
    traces = {count: {"cases": {name: TRACE}, "examples": EXAMPLES} for count in (1, 2, 3)}
    traces[2] = {"cases": {name: replace(TRACE, **changes)}, "examples": EXAMPLES}
    report = VerifyReport(tuple(_compare(traces)), "")
    assert report.passed == all(check.passed for check in report.checks)
    return [(check.name.removeprefix(f"{name}: "), check.workers) for check in report.checks if not check.passed]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("float64", {}, []),
        ("float64", {"losses": [2.0, 1.0 + 2e-9]}, [("losses", "1 / 2")]),
        ("float64", {"losses": [2.0, 1.0 + 5e-10]}, []),
        ("float64", {"losses": [2.0]}, [("losses", "1 / 2")]),
        ("float64", {"losses": [2.0, float("nan")]}, [("losses", "1 / 2")]),
        ("float64", {"weights": np.array([3.0, 4.0 + 1e-8])}, [("final weights", "1 / 2")]),
        ("float64", {"metrics": {"log_loss": 0.5 + 1e-8}}, [("validation log-loss", "1 / 2")]),
        ("float32", {"gradient": np.array([3.0, 4.0 + 6e-4])}, [("first gradient", "1 / 2")]),
        ("float32", {"gradient": np.array([3.0, 4.0 + 4e-4])}, []),
        ("float32", {"losses": [2.0, 1.5]}, []),
        ("float32", {"same_on_all_ranks": False}, [("ranks with other weights", "1, 2, 3")]),
        ("float32", {"resumed_equal": False}, [("resumed run differs", "1, 2, 3")]),
        ("float32", {"examples_per_epoch": 16.0}, [("examples missed an epoch", "1, 2, 3")]),
    ],
)
def test_a_check_fails_past_its_tolerance_alone(name, changes, expected):
    assert failed(name, **changes) == expected


@pytest.mark.parametrize(("workers", "held"), [(1, [5]), (2, [4, 1]), (3, [3, 2, 0])])
def test_the_last_batch_tells_workers_apart(workers, held):
    # The first of two has no padding there; one worker alone has.
    left = EXAMPLES % BATCH
    given = [replica_positions(BATCH, workers, rank) for rank in range(workers)]
    assert [int((positions < left).sum()) for positions in given] == held


def test_dropping_the_last_partial_batch_everywhere_counts_as_examples_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(make_home(tmp_path))
    config = load_config("config.yaml")
    dataset = subset(open_dataset(config))
    arguments = (dataset, shrink(config, 16), (16, 16), Place(0, 1, lambda value: value, lambda: None))
    assert _own_examples(Batches(*arguments)) == EXAMPLES

    complete = batches.train_batches

    def dropping(*given, **options):
        return complete(*given, **options).filter(lambda batch: batch["count"] == BATCH)

    monkeypatch.setattr(batches, "train_batches", dropping)
    # The second epoch's first batch is now the third.
    missed = abs(_own_examples(Batches(*arguments)) - EXAMPLES)
    assert missed > 0
    assert failed("float64", examples_per_epoch=EXAMPLES - missed) == [("examples missed an epoch", "1, 2, 3")]


@pytest.mark.parametrize("counts", [(1,), (2, 2), (0, 1), (1, MOST_WORKERS + 1)])
def test_worker_counts_that_cannot_be_compared_are_refused(counts):
    with pytest.raises(ConfigError, match=r"--workers is .*; two or more different numbers from 1 to 8"):
        _check_counts(counts)
    assert MOST_WORKERS == BATCH
