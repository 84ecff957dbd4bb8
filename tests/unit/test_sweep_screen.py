import io
from types import SimpleNamespace

from rayft.config import parse_config
from rayft.sweep.table import SweepScreen

CONFIG = parse_config({"name": "search", "data": {"source": "x"}})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, *phases):
    screen = SweepScreen(CONFIG, stream)
    for phase, share in phases:
        screen(SimpleNamespace(phase=phase, plan=None, conductor=None, share=share))
    screen.close()
    return stream.getvalue()


def test_off_a_terminal_a_phase_is_one_line():
    said = show(io.StringIO(), ("starting Ray", None), ("the pass", 0.0), ("the pass", 0.3), ("depth 3: used", None))
    assert said.splitlines() == ["starting Ray", "the pass  0%", "depth 3: used"]


def test_on_a_terminal_a_share_stands_in_a_line_that_goes_when_the_phase_ends():
    said = show(Terminal(), ("starting Ray", None), ("the pass", 0.0), ("depth 3: used", None))
    assert said == "starting Ray\n\r\x1b[Kthe pass  0%\r\x1b[Kdepth 3: used\n\r\x1b[K"


def test_in_a_log_a_long_pass_tells_how_far_it_is_twice_a_minute(monkeypatch):
    now = 100.0
    monkeypatch.setattr("rayft.screen.time.monotonic", lambda: now)
    stream = io.StringIO()
    screen = SweepScreen(CONFIG, stream)
    for share in (0.0, 0.1, 0.2, 0.3, 0.4):
        screen(SimpleNamespace(phase="the pass", plan=None, conductor=None, share=share))
        now += 20
    assert stream.getvalue().splitlines() == ["the pass  0%", "the pass  20%", "the pass  40%"]
