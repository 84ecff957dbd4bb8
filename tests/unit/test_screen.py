import io

from pyarrow.fs import LocalFileSystem

from rayft.screen import LiveLine, progress_line, summary
from rayft.storage import Storage


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _state(**changes):
    state = {
        "phase": "training",
        "epoch": 2,
        "epochs": 5,
        "step": 12,
        "steps": 40,
        "loss": 0.5,
        "metrics": {"accuracy": 0.75},
        "examples_per_s": 1234.0,
        "left_s": 61.0,
        "done_epochs": 1,
        "restarts": 0,
    }
    return {**state, **changes}


def test_a_progress_becomes_one_line():
    assert progress_line(_state()) == (
        "epoch 2/5  step 12/40  loss 0.5000  accuracy 0.7500  1,234 examples/s  1 min 1 s left"
    )
    first = _state(loss=float("nan"), metrics={}, examples_per_s=0, left_s=None, restarts=2)
    assert progress_line(first) == "epoch 2/5  step 12/40  2 restarts"
    assert progress_line({"phase": "starting Ray", "workers": 3}) == "3 workers  starting Ray"
    assert progress_line({"phase": "starting Ray", "workers": 1}) == "1 worker  starting Ray"


def test_off_a_terminal_a_line_appears_per_phase_and_epoch():
    stream = io.StringIO()
    line = LiveLine(stream)
    for state in [{"phase": "a"}, {"phase": "a"}, _state(), _state(step=13), _state(step=20, done_epochs=2)]:
        line(state)
    line.close()
    assert [text.split()[-1] if text == "a" else text[:20] for text in stream.getvalue().splitlines()] == [
        "a",
        "epoch 2/5  step 12/4",
        "epoch 2/5  step 20/4",
    ]


def test_on_a_terminal_there_is_one_line_and_none_at_the_end():
    stream = Terminal()
    line = LiveLine(stream)
    line({"phase": "a"})
    line({"phase": "b"})
    line.close()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().split("\r\x1b[K") == ["", "a", "b", ""]


def test_the_summary_ends_with_the_next_command():
    result = {
        "name": "a",
        "status": "finished",
        "best": {"epoch": 3, "step": 30, "accuracy": 0.75},
        "final": {"test_accuracy": 0.5},
        "num_workers": 2,
        "epochs": 4,
        "steps": 40,
        "examples_per_s": 1234.5,
        "wall_s": 61.2,
        "package": "/runs/a/package",
    }
    lines = summary(result, Storage(LocalFileSystem(), "/b/a", "s3://b/a?region=x")).splitlines()
    assert "epoch 3: accuracy 0.7500" in lines[1]
    assert "test_accuracy 0.5000" in lines[2]
    assert lines[-2].endswith(" s3://b/a/report.html?region=x")
    assert lines[-1].endswith("rayft predict s3://b/a?region=x PICTURE")


def test_the_summary_of_a_finished_run_says_that_nothing_changed():
    result = {"name": "a", "status": "finished", "best": {"epoch": 1}, "final": {}, "num_workers": 1, "epochs": 1}
    result |= {"steps": 1, "examples_per_s": 1.0, "wall_s": 7300, "package": "p", "already_finished": True}
    lines = summary(result, Storage.open("/runs/a")).splitlines()
    assert "nothing was changed" in lines[0]
    assert lines[1].endswith("1 worker")
    assert "2 h 1 min in all" in lines[4]
