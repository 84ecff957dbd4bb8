"""Pictures of a request handed to the engine."""

from __future__ import annotations

from rayft.serve.contract import Answered, Engine
from rayft.serve.http.request import Reply, Request
from rayft.serve.limits import Limits
from rayft.serve.wire.tensors import Pictures


async def answer_request(
    engine: Engine, limits: Limits, request: Request, pictures: Pictures, timeout_s: float | None = None
) -> Answered:
    """Answer the pictures of a request for the model of its path."""
    limits.check_count(len(pictures))
    model, version = request.params["model"], request.params.get("version")
    answered = await engine.answer(model, version, pictures, deadline=request.deadline(timeout_s))
    request.answered(answered)
    return answered


def with_origin(reply: Reply, answered: Answered) -> Reply:
    """Say in the headers which version answered, and where the time went."""
    timing = ", ".join(f"{part};dur={value:.3f}" for part, value in answered.timing_ms.items())
    reply.headers.append((b"x-model-version", answered.model.version.encode()))
    if timing:
        reply.headers.append((b"server-timing", timing.encode()))
    return reply
