"""What the protocols of the endpoint ask of the engine that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rayft.errors import RayftError


class RequestError(RayftError):
    """A request that cannot be answered; every protocol turns it into its own form of error.

    Args:
        problem: The value received and what is allowed.
        fix: The remedy, as an instruction.
        status: HTTP status: 400, 401, 403, 404, 405, 408, 413, 415, 422, 429 or 503.
        retry_after_s: After how long the same request may succeed; with 429 and 503 alone.
    """

    def __init__(self, problem: str, fix: str, status: int = 400, retry_after_s: float | None = None) -> None:
        super().__init__(problem, fix)
        # All must be arguments, or the error would not pickle.
        self.args = (problem, fix, status, retry_after_s)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.args[2]

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which a client may try again."""
        return self.args[3]

    def __str__(self) -> str:
        return f"{self.args[0]}\n  fix: {self.args[1]}"


@dataclass(frozen=True)
class ServedModel:
    """One version of a model as the endpoint serves it now.

    Attributes:
        name: What requests call it.
        version: Number in the registry, as text; "1" for a package that comes from no registry.
        aliases: Aliases that lead to the version.
        metrics: Metrics of its package.
        labels: Names of the classes, in the order of the probabilities.
        multi_label: Whether a picture may have any number of them.
        image_shape: Height, width and channels of a decoded picture.
        prefix_hash: Models with the same one share a pass of the frozen prefix; None without a prefix.
        identity: The sha256 of the package's manifest.
        problem: Why another version than the alias leads to is served, in words; None where it is not so.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    metrics: Mapping[str, float]
    labels: tuple[str, ...]
    multi_label: bool
    image_shape: tuple[int, int, int]
    prefix_hash: str | None
    identity: str
    problem: str | None = None


@dataclass(frozen=True)
class Answered:
    """The answer to one request.

    Attributes:
        model: What answered.
        probabilities: float32 [n, classes], calibrated.
        timing_ms: Milliseconds of queue, decode and compute, for the access log and the page.
    """

    model: ServedModel
    probabilities: np.ndarray
    timing_ms: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Answers decoded requests; all methods are called on one event loop."""

    @property
    def ready(self) -> bool:
        """Whether every model is loaded and warm."""

    def models(self) -> list[ServedModel]:
        """Return what is served now, in the order of the command line."""

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Return a served model.

        Raises:
            RequestError: 404: no such model, or another version is served.
        """

    async def answer(
        self, name: str, version: str | None, inputs: Sequence[bytes] | np.ndarray, *, deadline: float
    ) -> Answered:
        """Answer pictures of one request, in their order.

        Args:
            name: A served model.
            version: A served version; None for the one that is served.
            inputs: Encoded pictures, or decoded ones float32 [n, H, W, C] in 0..255.
            deadline: ``time.monotonic()`` at which nobody waits any more.

        Raises:
            RequestError: 404 unknown; 400 or 422 a picture that cannot be decoded (its index is named), or the wrong
                shape; 413 too many pixels; 429 the queue is full; 503 not ready; 408 the deadline has passed.
        """

    async def explain(
        self, name: str, version: str | None, picture: bytes, label: str | None, *, deadline: float
    ) -> bytes:
        """Return a PNG of the picture under a heat map of what speaks for a class (Grad-CAM).

        Args:
            name: A served model.
            version: A served version; None for the one that is served.
            picture: Encoded.
            label: The class; None for the most probable one.
            deadline: As for ``answer``.

        Raises:
            RequestError: As ``answer``; 404 too for a class that the model does not know.
        """
