"""What the model says of a step of VGG16 on 8 to 512 GPUs, by freeze depth: computed, not run.

python benchmarks/scaling_table.py
"""

from __future__ import annotations

import math

from scaling_model import VGG16, Wire, all_reduce_s, step_flops, step_s, trainable_bytes

# A GPU that reaches 60e12 operations a second in training, and starts a step's kernels in 1 ms; hops of a fast network.
GPU_FLOPS, LAUNCH_S, PICTURES, HEAD = 60e12, 1e-3, 32, 512 * 1000 + 1000
WIRE = Wire(hop_s=10e-6, copy_s_per_byte=0.0)
GPUS = (8, 32, 128, 512)
GBIT = (10, 100)


def rows() -> list[list[str]]:
    """Return the cells of a row for each freeze depth and wire: step time, and the part of it that computes."""
    made = []
    for depth in range(len(VGG16) + 1):
        size = trainable_bytes(VGG16, depth, HEAD)
        compute = LAUNCH_S + (step_flops(VGG16, depth, cached=True) + 6 * HEAD) * PICTURES / GPU_FLOPS
        name = str(depth) if depth < len(VGG16) else f"{depth} (all)"
        for gbit in GBIT:
            steps = [step_s(compute, size, gbit * 1e9 / 8, count, WIRE) for count in GPUS]
            cells = [f"{1e3 * seconds:.1f} ms, {100 * compute / seconds:.0f} %" for seconds in steps]
            made.append([name, f"{size / 1e6:.1f} MB", f"{1e3 * compute:.1f} ms", f"{gbit} Gbit/s", *cells])
    return made


def main() -> None:
    """Print the table of docs/scaling.md."""
    print("| freeze depth | gradients | one GPU | wire | " + " | ".join(f"{count} GPUs" for count in GPUS) + " |")
    print("|" + "---|" * (4 + len(GPUS)))
    for row in rows():
        print(f"| {' | '.join(row)} |")
    print(f"\nhops of a ring of {GPUS[-1]}: {1e3 * all_reduce_s(0, math.inf, GPUS[-1], WIRE):.1f} ms a step")


if __name__ == "__main__":
    main()
