import json
from pathlib import Path

import numpy as np
from PIL import Image
from test_data_pipeline import config, elements, small_dataset

from rayft.cli import main
from rayft.data.preview import choose_examples, describe_augmentation, preview_rows
from rayft.data.training_batches import train_batches

PICTURES = Path(__file__).parents[2] / "examples" / "data" / "pictures.parquet"
AUGMENT = {"rotate": 15, "mixup": 0.4}


def test_a_row_shows_the_very_pixels_and_targets_that_training_gets():
    dataset, run = small_dataset(7), config(batch=4, epochs=2, augment=AUGMENT)
    rows = preview_rows(dataset, run, (12, 10), [0, 3, 6], views=2)
    batches = elements(train_batches(dataset, run, (12, 10), rank=0, num_workers=1))
    trained = [image for batch in batches for image in batch["image"][batch["weight"] == 1]]
    assert [len(row) for row in rows] == [3, 3, 3]
    for row in rows:
        for epoch, cell in enumerate(row[1:]):
            assert cell.head == f"epoch {epoch + 1}"
            of_epoch = trained[7 * epoch : 7 * (epoch + 1)]
            assert any(np.array_equal(cell.image, image) for image in of_epoch)
    targets = [cell.text for row in rows for cell in row[1:]]
    assert any("," in target for target in targets)


def test_examples_are_taken_from_every_class_in_turn():
    assert choose_examples(small_dataset(6), 4) == [0, 1, 2, 3]


def test_the_subtitle_names_what_is_on():
    assert describe_augmentation(config(augment=AUGMENT).data.augment) == "rotate 15.0, mixup 0.4"


def test_the_command_writes_the_sheet(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data:\n  source: {PICTURES}\n  image_size: 32\n  global_batch_size: 8\n"
        "  columns: {group: identity}\n  augment: {cutmix: 1.0}\n"
    )
    output = tmp_path / "sheet.png"
    command = ["data", "preview", str(path), "-o", str(output), "--examples", "2", "--views", "3", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 2
    with Image.open(output) as sheet:
        assert sheet.width > 4 * 184
        # Something was drawn in the middle of each of the cells.
        assert len(sheet.getcolors(1 << 20)) > 500


def test_an_output_that_cannot_be_written_is_an_error_of_the_user(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(f"data:\n  source: {PICTURES}\n  image_size: 8\n  columns: {{group: identity}}\n")
    assert (
        main(["data", "preview", str(path), "-o", str(tmp_path / "sheet.xyz"), "--examples", "1", "--views", "1"]) == 2
    )
    assert "sheet.xyz" in capsys.readouterr().err
