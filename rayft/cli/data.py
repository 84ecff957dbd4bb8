"""The commands `rayft data ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rayft.cli.app import ConfigArgument, JsonOption, SetOption, app
from rayft.errors import StorageError
from rayft.quiet import native_start_up

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the data of a config.")
app.add_typer(data_app, name="data")


@data_app.command()
def preview(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG or JPEG that is written.")] = Path("preview.png"),
    examples: Annotated[int, typer.Option("--examples", min=1, max=100, help="Rows: training examples.")] = 6,
    views: Annotated[int, typer.Option("--views", min=1, max=50, help="Columns: epochs.")] = 5,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a contact sheet of what the network will see."""
    from rayft.config import load_config

    settings = load_config(config, tuple(overrides or ()))
    with native_start_up():
        from rayft.data.dataset import open_dataset
        from rayft.data.preview import choose_examples, describe_augmentation, draw_sheet, preview_rows
        from rayft.data.scan import check_pictures
        from rayft.model.backbone import input_size

    size = input_size(settings)
    data = settings.data
    dataset = check_pictures(open_dataset(settings), on_bad=data.on_bad, max_pixels=data.max_pixels)
    rows = preview_rows(dataset, settings, size, choose_examples(dataset, examples), views)
    title = f"{settings.name}: {size[0]} x {size[1]} pixels, batches of {data.global_batch_size}"
    sheet = draw_sheet(rows, title, describe_augmentation(data.augment))
    try:
        sheet.save(output)
    # Pillow finds the format by the name's ending.
    except (OSError, ValueError) as error:
        raise StorageError(
            f"Cannot write the picture {str(output)!r}: {error}.", "Give a .png or .jpg file in a folder that exists."
        ) from None
    done = {"output": str(output), "examples": len(rows), "views": views, "image_size": list(size)}
    print(json.dumps(done) if as_json else f"{output}: {len(rows)} examples, each as it is and in {views} epochs")
