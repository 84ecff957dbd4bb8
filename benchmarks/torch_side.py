"""Measured process: an eager PyTorch loop on MobileNetV2; its environment has PyTorch and NumPy alone.

The blocks are those of ``keras.applications.MobileNetV2`` (width 1.0): same kernels, strides, channels,
activation sizes, so the same number of multiplications. Where the stride is 2 the padding is one pixel on
both sides instead of one side, which saves PyTorch a padding operation.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gate import Gate
from setting import Setting

# (expansion, channels, repeats, first stride): Sandler et al. 2018, arXiv:1801.04381, table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
CLASSES = 11


def main() -> None:
    """Train until the driver has enough."""
    setting = Setting.from_json(sys.argv[1])
    gate = Gate(setting.cores)
    import numpy as np
    import torch

    torch.set_num_threads(len(setting.cores))
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    blocks, head = build_blocks(torch.nn)
    for block in blocks[: setting.frozen_blocks]:
        block.requires_grad_(False)
    network = torch.nn.Sequential(*blocks, head).to(memory_format=torch.channels_last)
    network.train()
    for module in network.modules():
        # Keras' frozen BatchNorm: moving statistics, and weights that do not learn.
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().requires_grad_(False)

    folder = Path(setting.data)
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)  # Channels last in memory.
    labels = torch.from_numpy(np.load(folder / "labels.npy")).long()
    size = setting.global_batch_size
    steps = len(images) // size
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=setting.config["optim"]["learning_rate"], eps=1e-7, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()

    gate.open(steps=steps, examples=steps * size, trainable=sum(weight.numel() for weight in weights))
    while True:
        total = torch.zeros(())
        for step in range(steps):
            rows = slice(step * size, (step + 1) * size)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(network(images[rows].float() / 127.5 - 1), labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not torch.isfinite(total):
            raise SystemExit("the loss is not finite")
        gate.epoch_done()


def build_blocks(nn):
    """Return the 19 blocks that rayft lists for MobileNetV2, and the head."""

    def conv_bn(channels_in, channels_out, kernel, stride, groups=1, active=True):
        layers = [
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out, eps=1e-3),
        ]
        return nn.Sequential(*layers, *([nn.ReLU6()] if active else []))

    class Residual(nn.Module):
        def __init__(self, channels_in, channels_out, stride, expansion):
            super().__init__()
            wide = channels_in * expansion
            self.body = nn.Sequential(
                *([conv_bn(channels_in, wide, 1, 1)] if expansion > 1 else []),
                conv_bn(wide, wide, 3, stride, groups=wide),
                conv_bn(wide, channels_out, 1, 1, active=False),
            )
            self.adds = stride == 1 and channels_in == channels_out

        def forward(self, x):
            return x + self.body(x) if self.adds else self.body(x)

    blocks, channels_in = [conv_bn(3, 32, 3, 2)], 32
    for expansion, channels, repeats, first_stride in STAGES:
        for index in range(repeats):
            blocks.append(Residual(channels_in, channels, first_stride if index == 0 else 1, expansion))
            channels_in = channels
    blocks.append(conv_bn(channels_in, 1280, 1, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, CLASSES))
    return blocks, head


if __name__ == "__main__":
    main()
