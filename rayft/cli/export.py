"""The command `rayft models export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rayft.cli.app import JsonOption, ModelArgument, RegistryOption
from rayft.cli.models import models
from rayft.errors import ExportError
from rayft.quiet import native_start_up


@models.command()
def export(
    model: ModelArgument,
    kind: Annotated[str, typer.Option("--format", metavar="FORMAT", help="saved_model, onnx or litert.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="PATH", help="File; for saved_model a folder.")],
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="KIND", help="litert only: float16 or int8-dynamic.")
    ] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the network for another runtime, and prove that it answers as the package does."""
    from rayft.registry.locate import located

    if "://" in output:
        raise ExportError(f"-o is {output!r}; a local path is allowed.", "Write it here, then copy it there.")
    path = Path(output)
    with located(model, registry) as found, native_start_up():
        from rayft.export.export import export as write
        from rayft.export.export import sidecar_of
        from rayft.package.read import read_package

        source = {} if found.version is None else {"model": found.version.name, "version": found.version.number}
        record = write(read_package(found.folder), kind, path, quantize, source)
    if as_json:
        print(json.dumps({"path": str(path), "record": str(sidecar_of(path, kind)), **record}))
        return
    golden = record["golden"]
    allowed = "not judged" if golden["tolerance"] is None else f"{golden['tolerance']:.0e} is allowed"
    print(f"wrote {path}  {record['bytes'] / 1e6:.1f} MB")
    print(
        f"differs from the package by {golden['difference']:.1e} on {golden['examples']} golden pictures ({allowed}); "
        f"{golden['same_best_label']} of them keep their best label"
    )
