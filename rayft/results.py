"""What the functions of `rayft` return: mappings that show themselves well."""

from __future__ import annotations

import copy
import html
from collections.abc import Iterator, Mapping
from typing import Any


class Result(Mapping[str, Any]):
    """A mapping that nobody can change; ``to_dict`` gives a plain copy."""

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Keep a copy of ``values``."""
        object.__setattr__(self, "_values", copy.deepcopy(dict(values)))

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict of the same content."""
        return copy.deepcopy(self._values)

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return copy.deepcopy(value) if isinstance(value, (dict, list)) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values,)

    def _title(self) -> str:
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self._facts())
        return f"{type(self).__name__}({self._title()!r}, {facts})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self._facts()
        )
        return f"<table><caption>{html.escape(self._title())}</caption><tbody>{rows}</tbody></table>"


class RunResult(Result):
    """A finished run; its content is that of ``result.json``."""

    __slots__ = ()

    @property
    def folder(self) -> str:
        """The run's folder, a path or URI."""
        place, mark, options = str(self._values["package"]).partition("?")
        return f"{place.rpartition('/')[0]}{mark}{options}"

    def _title(self) -> str:
        return str(self._values["name"])

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("status", str(self._values["status"])),
            *_figures(self._values["final"]),
            ("best_epoch", str(self._values["best"]["epoch"])),
            ("wall_s", f"{self._values['wall_s']:.1f}"),
            ("folder", self.folder),
        ]


class Evaluation(Result):
    """Metrics of a package on a dataset."""

    __slots__ = ()

    def _title(self) -> str:
        return f"{self._values['model']} on {self._values['data']}"

    def _facts(self) -> list[tuple[str, str]]:
        low, high = self._values["accuracy_interval"]
        return [
            ("split", str(self._values["split"])),
            ("examples", str(self._values["examples"])),
            *_figures(self._values["metrics"]),
            ("accuracy_interval", f"[{low:.4f}, {high:.4f}]"),
            ("temperature", f"{self._values['temperature']:.4f}"),
        ]


def _figures(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4f}") for name, value in metrics.items() if isinstance(value, (int, float))]
