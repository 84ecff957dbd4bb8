import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayft.config import RunConfig, parse_config
from rayft.data.dataset import Dataset, open_dataset
from rayft.errors import DataError, StorageError


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def config(source: Path, **data) -> RunConfig:
    return parse_config({"data": {"source": str(source), **data}})


@pytest.fixture
def open_(tmp_path):
    def run(source: Path, **data) -> Dataset:
        return open_dataset(config(source, **data), tmp_path / "cache")

    return run


def table(count: int = 12, **columns) -> pa.Table:
    content = {"image": [picture(n) for n in range(count)], "label": [["cat", "dog"][n % 2] for n in range(count)]}
    return pa.table({name: values for name, values in {**content, **columns}.items() if values is not None})


def write(content: pa.Table, path: Path, form: str = "parquet") -> Path:
    if form == "parquet":
        pq.write_table(content, path, row_group_size=5)
    else:
        kind = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, kind(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=5)
    return path


def write_folder(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def test_a_folder_per_class_gives_nested_files_without_hidden_ones(tmp_path, open_):
    names = ["cat/1.png", "cat/deep/2.png", "cat/.3.png", "dog/4.png", "dog/5.png", ".git/6.png"]
    dataset = open_(write_folder(tmp_path / "d", names), validation_fraction=0)
    assert dataset.examples["name"].to_pylist() == ["cat/1.png", "cat/deep/2.png", "dog/4.png", "dog/5.png"]
    assert dataset.labels == ("cat", "dog")
    assert dataset.examples["label"].to_pylist() == [0, 0, 1, 1]
    assert dataset.reader.read(np.array([2, 0])) == [picture(3), picture(0)]
    assert dataset.examples.schema.types == [pa.int64(), pa.int32(), pa.string(), pa.string()]


def test_the_first_folder_level_may_be_the_splits(tmp_path, open_):
    names = ["train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/cat/4.png"]
    dataset = open_(write_folder(tmp_path / "d", names))
    assert dataset.examples["split"].to_pylist() == ["test", "train", "train", "validation"]
    assert dataset.examples["label"].to_pylist() == [0, 0, 1, 1]


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_every_table_format_gives_the_same_dataset(tmp_path, open_, form):
    path = write(
        table(split=["train"] * 8 + ["dev"] * 4), tmp_path / f"d.{'parquet' if form == 'parquet' else 'arrow'}", form
    )
    dataset = open_(path)
    assert dataset.reader.read(np.array([11, 3, 3])) == [picture(11), picture(3), picture(3)]
    assert dataset.labels == ("cat", "dog")
    assert dataset.examples["split"].to_pylist() == ["train"] * 8 + ["validation"] * 4
    assert dataset.examples["name"][3].as_py() == f"{path.name}#3"
    reference = open_(write(table(split=["train"] * 8 + ["dev"] * 4), tmp_path / "reference.parquet"))
    assert dataset.fingerprint == reference.fingerprint


def test_a_folder_of_tables_counts_rows_on(tmp_path, open_):
    (tmp_path / "d").mkdir()
    whole = table()
    write(whole.slice(0, 7), tmp_path / "d" / "a.parquet")
    write(whole.slice(7), tmp_path / "d" / "b.parquet")
    dataset = open_(tmp_path / "d")
    assert dataset.examples["row"].to_pylist() == list(range(12))
    assert dataset.examples["name"][7].as_py() == "b.parquet#0"
    assert dataset.reader.read(np.arange(12)) == [picture(n) for n in range(12)]


def test_pictures_of_hugging_face_are_a_struct_with_class_names_in_the_metadata(tmp_path, open_):
    images = [{"bytes": picture(n), "path": None} for n in range(12)]
    features = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}
    content = table(image=images, label=[n % 2 for n in range(12)])
    content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
    dataset = open_(write(content, tmp_path / "d.parquet"))
    assert dataset.labels == ("zebra", "ant")
    assert dataset.reader.read(np.array([5])) == [picture(5)]


def test_integer_labels_take_names_from_metadata_then_the_name_column_then_the_number(tmp_path, open_):
    numbers = [n % 2 * 3 for n in range(12)]
    assert open_(write(table(label=numbers), tmp_path / "a.parquet")).labels == ("0", "3")
    named = table(label=numbers, label_name=["dog" if n else "cat" for n in numbers])
    assert open_(write(named, tmp_path / "b.parquet")).labels == ("cat", "dog")
    listed = table(label=[n % 2 for n in range(12)]).replace_schema_metadata({"classes": '["x", "a"]'})
    assert open_(write(listed, tmp_path / "c.parquet")).labels == ("x", "a")


def test_paths_are_relative_to_the_table(tmp_path, open_):
    write_folder(tmp_path / "d" / "pictures", [f"{n}.png" for n in range(12)])
    content = table(image=None, path=[f"pictures/{n}.png" for n in range(12)])
    dataset = open_(write(content, tmp_path / "d" / "d.parquet"))
    assert dataset.reader.read(np.array([4])) == [picture(4)]
    assert dataset.examples["name"][4].as_py() == "pictures/4.png"
    before = dataset.fingerprint
    (tmp_path / "d" / "pictures" / "4.png").write_bytes(picture(4) + b"more")
    assert open_(tmp_path / "d" / "d.parquet").fingerprint != before


def test_the_fingerprint_follows_the_content_alone(tmp_path, open_):
    first = open_(write(table(), tmp_path / "a.parquet")).fingerprint
    assert open_(write(table(), tmp_path / "b.parquet")).fingerprint == first
    changed = [picture(n) for n in range(11)] + [picture(99)]
    assert open_(write(table(image=changed), tmp_path / "c.parquet")).fingerprint != first
    assert open_(write(table(label=["dog", "cat"] * 6), tmp_path / "e.parquet")).fingerprint != first


def test_a_pickled_dataset_is_small_and_builds_its_cache_anew_where_it_is_missing(tmp_path, open_):
    noise = [np.random.default_rng(n).bytes(50_000) for n in range(12)]
    dataset = open_(write(table(image=noise), tmp_path / "d.parquet"))
    (tmp_path / "pickled").write_bytes(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 20_000
    (cached,) = (tmp_path / "cache").glob("*.arrow")
    cached.unlink()
    code = (
        "import pickle, numpy as np; d = pickle.load(open('pickled', 'rb'));"
        "print(d.reader.read(np.array([7])) == [np.random.default_rng(7).bytes(50_000)])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"
    assert cached.exists()


def test_a_source_that_changed_is_not_mixed_with_the_old_one(tmp_path, open_):
    path = write(table(), tmp_path / "d.parquet")
    dataset = open_(path)
    next((tmp_path / "cache").glob("*.arrow")).unlink()
    write(table(image=[picture(50 + n) for n in range(12)]), path)
    with pytest.raises(DataError, match="have changed"):
        dataset.reader.read(np.array([0]))
    assert not list((tmp_path / "cache").glob("*.arrow"))
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_opening_an_unchanged_table_again_does_not_read_its_pictures(tmp_path, open_):
    path = write(table(), tmp_path / "d.parquet")
    open_(path)
    (cached,) = (tmp_path / "cache").glob("*.arrow")
    written = cached.stat().st_mtime_ns
    open_(path)
    assert cached.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["cat"] * 12}, "same label: 'cat'"),
        ({"label": None}, "no column 'label'.*Columns of .*: image"),
        ({"image": None}, "no column of pictures"),
        ({"image": [3] * 12}, "'image' is of type int64"),
        ({"path": ["a.png"] * 12}, "Both 'image' and 'path'"),
        ({"label": [0.0, float("nan")] * 6}, r"6 examples have no label.*rows: 1, 3, 5"),
        ({"label": ["cat", None] * 6}, r"6 examples have no label"),
        ({"label": [0, -1] * 6}, r"Label -1 of row 1 is not a class number"),
        ({"label": [0.0, 0.5] * 6}, r"Label 0\.5 of row 1"),
        ({"label": [0, 1] * 6, "label_name": ["a", "b"] * 5 + ["b", "b"]}, "named 'a', but row 10 names it 'b'"),
        ({"split": ["train", "holdout"] * 6}, "Row 1 has the split 'holdout'; allowed are train"),
        ({"split": ["train"] * 11 + [None]}, "Row 11 has the split None"),
        ({"split": ["test"] * 12}, "training split is empty"),
        ({"split": ["train", "val"] * 6}, "no training example: dog"),
        ({"group": ["a"] * 12, "split": ["train", "val"] * 6}, "Group 'a' lies in the splits train and validation"),
        ({"label": ["cat"] * 11 + ["dog"]}, "fewer than 2 training examples to divide: dog"),
        ({"group": ["a"] * 12}, "leaves the validation split empty"),
    ],
)
def test_a_wrong_table_is_refused_with_value_and_remedy(tmp_path, open_, columns, message):
    path = write(table(**columns), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=message) as caught:
        open_(path)
    assert caught.value.args[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/1.png", "cat/2.png"], "same label"),
        (["cat/1.png", "dog/1.png", "3.png"], "1 pictures of .* lie in no class folder; the first: 3.png"),
        (["1.txt"], "holds no class folders"),
        (["cat/1.png", "dog/.hidden"], "1 class folders of .* hold no pictures: dog"),
        (["train/cat/1.png", "val/dog/1.png"], "no training example: dog"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path, open_, names, message):
    with pytest.raises(DataError, match=message):
        open_(write_folder(tmp_path / "d", names), validation_fraction=0)


def test_a_missing_a_damaged_or_an_unknown_file_is_refused(tmp_path, open_):
    with pytest.raises(DataError, match="does not exist"):
        open_(tmp_path / "nowhere")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"Cannot read the table .*d\.parquet"):
        open_(tmp_path / "d.parquet")
    (tmp_path / "d.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unknown format"):
        open_(tmp_path / "d.zip")
    with pytest.raises(DataError, match="no column 'klass'"):
        open_(write(table(), tmp_path / "e.parquet"), columns={"label": "klass"})
    (tmp_path / "cache2").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Cannot .*cache2"):
        open_dataset(config(tmp_path / "e.parquet"), tmp_path / "cache2" / "x")
