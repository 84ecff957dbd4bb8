import re
import resource

import numpy as np
import pytest

from rayft.errors import StorageError
from rayft.learn.journal import Journal
from rayft.runs import RunFolder
from rayft.storage import Storage

LOSSES = np.arange(1.0, 13.0)
METRICS = {"accuracy": 0.5}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(Storage.open(tmp_path))


def make_journal(folder, start_step=0, unlogged=(), every=3):
    """Epochs of 6 steps of 4 examples, the last one of 1."""
    return Journal(
        folder,
        start_step=start_step,
        unlogged=unlogged,
        steps_per_epoch=6,
        log_every_steps=every,
        examples_per_step=lambda step: 1 if step % 6 == 5 else 4,
        learning_rate=lambda step: 0.1 * step,
    )


def shown(folder):
    return [(line["epoch"], line["step"], line["loss"]) for line in folder.metrics()]


def test_a_line_is_the_mean_of_its_steps_and_the_last_of_an_epoch_has_metrics(folder):
    journal = make_journal(folder, every=4)
    journal.add(LOSSES[:5], 1.0, None)
    journal.add(LOSSES[5:6], 1.0, METRICS)
    journal.flush()
    assert shown(folder) == [(1, 4, 2.5), (1, 6, 5.5)]
    assert [line.get("accuracy") for line in folder.metrics()] == [None, 0.5]
    assert folder.metrics()[0]["learning_rate"] == pytest.approx(0.3)


def test_lines_after_the_restored_step_are_dropped(folder):
    journal = make_journal(folder, every=1)
    journal.add(LOSSES[:6], 1.0, METRICS)
    journal.add(LOSSES[6:10], 1.0, None)
    journal.flush()
    again = make_journal(folder, start_step=7, every=1)
    again.add(LOSSES[7:12], 1.0, METRICS)
    again.flush()
    assert [step for _, step, _ in shown(folder)] == list(range(1, 13))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_resumed_journal_has_the_lines_of_an_undisturbed_one(cut, folder, tmp_path):
    whole = make_journal(folder)
    whole.add(LOSSES[:6], 1.0, METRICS)
    whole.add(LOSSES[6:], 1.0, METRICS)
    whole.flush()
    other = RunFolder(Storage.open(tmp_path / "other"))
    journal = make_journal(other)
    for first, end in ((0, min(cut, 6)), (6, max(cut, 6))):
        journal.add(LOSSES[first:end], 1.0, METRICS if end % 6 == 0 else None)
    journal.flush()
    journal = make_journal(other, start_step=cut, unlogged=journal.unlogged)
    for first, end in ((cut, 6), (max(cut, 6), 12)):
        if first < end:
            journal.add(LOSSES[first:end], 1.0, METRICS)
    journal.flush()
    assert shown(other) == shown(folder)


def test_the_first_call_does_not_count_for_the_speed(folder):
    journal = make_journal(folder)
    journal.add(LOSSES[:1], 100.0, None)
    journal.add(LOSSES[1:6], 2.0, METRICS)
    # 4 steps of 4 examples and one of 1 in 2 seconds.
    assert journal.examples_per_s == pytest.approx(17 / 2)
    assert journal.steps_per_s == pytest.approx(5 / 2)


def test_events_that_cannot_be_written_are_an_error_that_names_the_folder(folder, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # It takes the place of a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(StorageError, match=re.escape(str(tmp_path / "tensorboard"))):
            make_journal(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
