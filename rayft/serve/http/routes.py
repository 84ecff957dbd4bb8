"""Which handler a path leads to."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayft.serve.contract import RequestError
from rayft.serve.http.request import Reply, Request
from rayft.serve.wire.json_text import shown

Handler = Callable[[Request], Awaitable[Reply]]

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Route:
    """A method of a path.

    Attributes:
        method: GET or POST; GET answers HEAD too.
        template: The path; ``{model}`` stands for one segment, up to a slash or colon.
        handler: Answers.
        operation: What OpenAPI says of it; None leaves it out.
        open: Whether it answers without a key.
        every_model: Whether only keys for every model may use it.
    """

    method: str
    template: str
    handler: Handler
    operation: Mapping[str, Any] | None = None
    open: bool = False
    every_model: bool = False
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _PARAMETER.split(self.template)
        pieces = [re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts)]
        object.__setattr__(self, "pattern", re.compile("".join(pieces)))


class Router:
    """Finds routes.

    Args:
        routes: The busiest first.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed = {(route.method, route.template): route for route in routes if "{" not in route.template}
        self._others = [route for route in routes if "{" in route.template]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route of a request, with the parts of the path that it names.

        Raises:
            RequestError: 404 no such path; 405 another method is allowed.
        """
        method = "GET" if method == "HEAD" else method
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return fixed, {}
        for route in self._others:
            if route.method == method and (match := route.pattern.fullmatch(path)):
                return route, match.groupdict()
        allowed = self.allowed(path)
        if not allowed:
            raise RequestError(f"There is no path {shown(path)}.", "GET /docs lists them.", 404)
        raise RequestError(f"{shown(path)} does not allow {shown(method)}.", f"Use {', '.join(allowed)}.", 405)

    def allowed(self, path: str) -> list[str]:
        """Return the methods of a path."""
        return sorted({route.method for route in self.routes if route.pattern.fullmatch(path)})
