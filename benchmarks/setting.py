"""What one measured process is told; plain Python, because PyTorch's environment reads it as well."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One process of a measurement.

    Attributes:
        config: A run's config, as ``rayft.config.parse_config`` takes it.
        data: Folder with ``images.npy`` uint8 [n, H, W, 3] and ``labels.npy`` int32 [n].
        source: memory (decoded pictures from ``data``) or encoded (the config's own source).
        cores: The cores that the process is pinned to; it uses as many threads.
        rank: This process among ``workers``.
        workers: ``host:port`` of all workers.
        frozen_blocks: Blocks frozen, of the architecture written anew for PyTorch.
        jit_compile: Argument of Keras' ``compile``.
    """

    config: dict[str, Any]
    data: str
    source: str
    cores: list[int]
    rank: int = 0
    workers: list[str] = field(default_factory=list)
    frozen_blocks: int = 0
    jit_compile: bool | str = False

    @property
    def global_batch_size(self) -> int:
        """Examples per step, over all workers."""
        return self.config["data"]["global_batch_size"]

    def to_json(self) -> str:
        """Return it as one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))
