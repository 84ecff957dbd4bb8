"""Measured process: the Predictor in-process, from encoded pictures to answers."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import pyarrow.parquet as pq

BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Answer a line on stdin, the seconds of a turn, with a line of figures; ends with its input."""
    folder, pictures, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print must not mix with the answers.
    os.dup2(2, 1)
    from rayft.serve.predictor import load

    predictor = load(folder)
    encoded = pq.read_table(pictures, columns=["image"])["image"].to_pylist()[:count]

    def per_s(batch_size: int, seconds: float) -> float:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            batch = [encoded[(done + index) % len(encoded)] for index in range(batch_size)]
            predictor.predict(batch, batch_size=batch_size)
            done += batch_size
        return done / (time.perf_counter() - started)

    for size in BATCH_SIZES:
        per_s(size, 0.5)
    best = max(BATCH_SIZES, key=lambda size: per_s(size, 1.5))
    print(json.dumps({"best_batch_size": best}), file=answers)
    for line in sys.stdin:
        figures = {
            "per_s": per_s(best, float(line)),
            "batch_size": best,
            "one_ms": _median_ms(predictor.predict, encoded),
        }
        print(json.dumps(figures), file=answers)


def _median_ms(predict: Callable, encoded: list[bytes]) -> float:
    """Return the median time of one picture."""
    times = []
    for content in encoded:
        started = time.perf_counter()
        predict([content])
        times.append(1e3 * (time.perf_counter() - started))
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
