"""The arithmetic of docs/scaling.md, against values computed by hand and runs that follow known constants."""

import math
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from scaling import read_runs, report
from scaling_model import (
    VGG16,
    Run,
    Wire,
    all_reduce_s,
    block_flops,
    block_parameters,
    errors,
    errors_unseen,
    fit,
    step_flops,
    step_s,
    trainable_bytes,
)
from scaling_table import rows

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"
FREE = Wire(0.0, 0.0)


def test_a_ring_of_four_sends_one_and_a_half_times_the_vector():
    # 1.5 x 1,000 bytes at 500 bytes/s take 3 s; six hops of 0.1 s and a copy of 1 ms a byte come on top.
    assert all_reduce_s(1000, 500, 4, FREE) == pytest.approx(3.0)
    assert all_reduce_s(1000, 500, 4, Wire(0.1, 0.001)) == pytest.approx(3.0 + 0.6 + 1.5)
    assert all_reduce_s(1000, 500, 1, Wire(0.1, 0.001)) == 0


def test_the_parts_of_a_step_follow_each_other():
    assert step_s(0.2, 1000, 500, 2, FREE, input_s=0.05) == pytest.approx(0.2 + 2.0 + 0.05)


def test_vgg16_has_the_known_parameters_and_operations():
    # keras.applications.VGG16(include_top=False).count_params(), and 15.35e9 multiply-adds, summed by hand.
    assert sum(block_parameters(block) for block in VGG16) == 14_714_688
    assert sum(block_flops(block) for block in VGG16) == pytest.approx(2 * 15.35e9, rel=0.002)
    assert trainable_bytes(VGG16, 4, head=10) == 4 * (3 * (9 * 512 * 512 + 512) + 10)
    assert trainable_bytes(VGG16, 5, head=10) == 40


def test_the_documentation_holds_what_the_model_says():
    written = DOCS.read_text()
    for row in rows():
        assert f"| {' | '.join(row)} |" in written


def test_frozen_blocks_cost_a_forward_pass_and_cached_ones_nothing():
    one, two = (((1, 1, 1),), ((1, 1, 2),))
    # A multiply-add of a 3 x 3 kernel is 18 operations.
    assert step_flops((one, two), 0, cached=False) == 3 * (18 + 36)
    assert step_flops((one, two), 1, cached=False) == 18 + 3 * 36
    assert step_flops((one, two), 1, cached=True) == 3 * 36


def runs(noise=lambda number: 1.0):
    """Steps that follow constants: 20 and 50 ms of compute on two cores, hops of 1 ms, 2 ns a byte."""
    made = []
    for name, compute, size in (("small", 0.02, 100_000), ("large", 0.05, 1_000_000)):
        for workers in (1, 2, 4):
            crowd = 2.0 if workers == 4 else 1.0
            for bandwidth in (math.inf, 50e6, 12.5e6) if workers > 1 else (math.inf,):
                sent = 2 * (workers - 1) / workers * size
                seconds = compute * crowd + sent / bandwidth + 2 * (workers - 1) * 0.001 + sent * 2e-9 * crowd
                made.append(Run(workers, size, bandwidth, seconds * noise(len(made)), name))
    return made


def test_a_fit_finds_the_constants_that_runs_follow():
    fitted = fit(runs(), cores=2)
    assert fitted.compute_s == pytest.approx({"small": 0.02, "large": 0.05})
    assert (fitted.wire.hop_s, fitted.wire.copy_s_per_byte) == pytest.approx((0.001, 2e-9))
    assert max(map(abs, errors(fitted, runs()))) < 1e-9
    assert len(errors_unseen(runs(), cores=2)) == 2 * 2 * 2
    assert max(map(abs, errors_unseen(runs(), cores=2))) < 1e-9


def test_the_error_of_a_fit_is_as_large_as_the_noise_of_the_runs():
    noisy = runs(lambda number: 1.1 if number % 2 else 0.9)
    found = errors(fit(noisy, cores=2), noisy)
    assert 0.02 < max(map(abs, found)) < 0.25


def test_a_run_is_the_median_of_its_steps_and_one_worker_has_no_wire():
    alone = {"workers": 1, "depth": 3, "trainable_bytes": 8, "mbit": None, "steps_s": [0.5, 0.01234, 0.01]}
    pair = {**alone, "workers": 2, "mbit": 80}
    assert read_runs([alone, pair]) == [Run(1, 8, math.inf, 0.0123, "depth 3"), Run(2, 8, 1e7, 0.0123, "depth 3")]


def test_the_documentation_holds_the_fit_of_the_runs_that_it_shows():
    written = DOCS.read_text()
    row = r"^\| (\d) \| (\d) \| ([\d,]+) B \| (?:none|(\d+) Mbit/s) \| ([\d.]+) ms \|"
    shown = [
        Run(
            int(workers),
            int(size.replace(",", "")),
            float(mbit) * 1e6 / 8 if mbit else math.inf,
            round(float(step_ms) / 1e3, 4),
            f"depth {depth}",
        )
        for workers, depth, size, mbit, step_ms in re.findall(row, written, re.M)
    ]
    assert {run.workers for run in shown} == {1, 2, 4}
    assert "\n".join(report(shown, cores=2)) in written


def test_no_constant_is_below_zero():
    # Two workers that are faster than one alone: no hop takes negative time.
    lucky = [Run(1, 1000, math.inf, 0.02, "a"), Run(2, 1000, math.inf, 0.015, "a"), Run(2, 1000, 1e6, 0.016, "a")]
    fitted = fit(lucky, cores=2)
    assert fitted.wire == Wire(0.0, 0.0)
    assert fitted.compute_s["a"] > 0
