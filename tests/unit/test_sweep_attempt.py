import importlib.util
import threading
from pathlib import Path

# The module knows no Ray, but its package imports it.
_WHERE = Path(__file__).parents[2] / "rayft" / "distributed" / "sweep" / "attempt.py"
_SPEC = importlib.util.spec_from_file_location("attempt", _WHERE)
attempt_module = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(attempt_module)
Attempt = attempt_module.Attempt


def three_epochs(log):
    def body(attempt):
        for epoch in (1, 2, 3):
            log.append(epoch)
            attempt.tell(epoch)
        return "result"

    return body


def test_epochs_come_one_by_one_and_then_the_result():
    attempt = Attempt(three_epochs([]), lockstep=True)
    assert [attempt.next_told() for _ in range(4)] == [1, 2, 3, None]
    assert (attempt.result, attempt.error) == ("result", None)


def test_in_lockstep_nothing_runs_ahead_and_a_stop_ends_it_there():
    log = []
    attempt = Attempt(three_epochs(log), lockstep=True)
    assert attempt.next_told() == 1
    attempt.stop(5)
    assert log == [1]
    assert attempt.result is None


def test_without_lockstep_the_newest_epoch_is_told():
    log, ran = [], threading.Event()

    def body(attempt):
        three_epochs(log)(attempt)
        ran.set()
        assert attempt.stop_requested.wait(5)

    attempt = Attempt(body, lockstep=False)
    first = attempt.next_told()
    assert ran.wait(5)
    assert first == 3 or attempt.next_told() == 3
    attempt.stop(5)
    assert attempt.next_told() is None
    assert attempt.error is None


def test_an_error_ends_the_attempt_and_is_kept():
    def body(attempt):
        attempt.tell(1)
        raise ValueError("broken")

    attempt = Attempt(body, lockstep=True)
    assert [attempt.next_told(), attempt.next_told()] == [1, None]
    assert str(attempt.error) == "broken"


def test_an_attempt_that_never_began_can_be_stopped():
    Attempt(three_epochs([]), lockstep=True).stop(5)
