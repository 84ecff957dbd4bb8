"""Every kind of source gives the same examples; their oracle is the Parquet file of the same rows."""

import gzip
import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from test_data_dataset import config, picture, table, write, write_folder

from rayft.data.dataset import Dataset, open_dataset
from rayft.errors import ConfigError, DataError

LABELS = [["cat", "dog"][n % 2] for n in range(12)]
PICTURES = [picture(n) for n in range(12)]


@pytest.fixture
def open_(tmp_path):
    def run(source, **data) -> Dataset:
        return open_dataset(config(source, **data), tmp_path / "cache")

    return run


def assert_same(dataset: Dataset, splits=None) -> None:
    assert dataset.labels == ("cat", "dog")
    assert dataset.examples["label"].to_pylist() == [0, 1] * 6
    assert dataset.reader.read(np.array([11, 3, 3])) == [PICTURES[11], PICTURES[3], PICTURES[3]]
    if splits:
        assert dataset.examples["split"].to_pylist() == splits


def separated(path, delimiter, rows, header=("path", "label")):
    lines = [delimiter.join(header), *(delimiter.join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_text_files_name_pictures_relative_to_themselves(tmp_path, open_, form):
    write_folder(tmp_path / "d" / "pictures", [f"{n}.png" for n in range(12)])
    rows = [(f"pictures/{n}.png", LABELS[n]) for n in range(12)]
    path = tmp_path / "d" / f"labels.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps({"path": place, "label": label}) + "\n" for place, label in rows))
    else:
        separated(path, {"csv": ",", "tsv": "\t"}[form], rows)
    dataset = open_(path)
    assert_same(dataset)
    assert dataset.examples["name"][4].as_py() == "pictures/4.png"


def test_cells_of_a_csv_are_numbers_only_where_all_of_the_column_are(tmp_path, open_):
    write_folder(tmp_path, [f"{n}.png" for n in range(12)])
    # Sorted as text, 10 would come before 9.
    numbers = separated(tmp_path / "a.csv", ",", [(f"{n}.png", ["9", "10"][n % 2]) for n in range(12)])
    assert open_(numbers).labels == ("9", "10")
    zeros = separated(tmp_path / "b.csv", ",", [(f"{n}.png", ["007", "10"][n % 2]) for n in range(12)])
    assert open_(zeros).labels == ("007", "10")
    late = separated(tmp_path / "c.csv", ",", [(f"{n}.png", "x" if n > 9 else "3") for n in range(12)])
    assert open_(late).labels == ("3", "x")


def test_a_column_image_of_text_holds_paths(tmp_path, open_):
    write_folder(tmp_path, [f"{n}.png" for n in range(12)])
    rows = [(f"{n}.png", LABELS[n]) for n in range(12)]
    assert_same(open_(separated(tmp_path / "a.csv", ",", rows, header=("image", "label"))))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('"s3://bucket/1.png",cat', "Row 0 has the URI"),
        (",cat", "Row 0 has no path"),
        ("1.png,", "1 examples have no label"),
        ("1.png,cat,more", "Cannot read the table"),
    ],
)
def test_a_wrong_csv_is_refused(tmp_path, open_, cell, message):
    (tmp_path / "a.csv").write_text(f"path,label\n{cell}\n2.png,dog\n")
    with pytest.raises(DataError, match=message):
        open_(tmp_path / "a.csv")


def test_files_named_by_splits_are_the_splits(tmp_path, open_):
    write_folder(tmp_path / "d", [f"{n}.png" for n in range(12)])
    rows = [(f"{n}.png", LABELS[n]) for n in range(12)]
    separated(tmp_path / "d" / "train.csv", ",", rows[:8])
    separated(tmp_path / "d" / "test.csv", ",", rows[8:])
    dataset = open_(tmp_path / "d", validation_fraction=0)
    assert dataset.size("train") == 8
    assert dataset.size("test") == 4
    (tmp_path / "p").mkdir()
    write(table().slice(0, 8), tmp_path / "p" / "train-00000-of-00001.parquet")
    write(table().slice(8), tmp_path / "p" / "validation-00000-of-00001.parquet")
    assert open_(tmp_path / "p").size("validation") == 4


def save_to_disk(folder, content: pa.Table, features, files=2):
    """Write what ``Dataset.save_to_disk`` of Hugging Face's datasets 4 writes."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    size = -(-content.num_rows // files)
    for number, name in enumerate(names):
        write(content.slice(number * size, size), folder / name, "stream")
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "splits": None}))
    return folder


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def hugging_face_table() -> pa.Table:
    return table(image=[{"bytes": content, "path": None} for content in PICTURES], label=[n % 2 for n in range(12)])


def test_a_saved_dataset_of_hugging_face_is_read_with_its_class_names(tmp_path, open_):
    assert_same(open_(save_to_disk(tmp_path / "saved", hugging_face_table(), FEATURES)))


def test_the_folders_of_a_saved_dataset_dict_are_its_splits(tmp_path, open_):
    content = hugging_face_table()
    save_to_disk(tmp_path / "saved" / "train", content.slice(0, 8), FEATURES)
    save_to_disk(tmp_path / "saved" / "test", content.slice(8), FEATURES, files=1)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert_same(open_(tmp_path / "saved", validation_fraction=0), splits=["train"] * 8 + ["test"] * 4)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "unsupervised"]}')
    with pytest.raises(DataError, match="splits train, unsupervised; allowed are train"):
        open_(tmp_path / "saved")


def test_a_damaged_saved_dataset_is_refused(tmp_path, open_):
    folder = save_to_disk(tmp_path / "saved", hugging_face_table(), FEATURES)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(DataError, match="selection of rows"):
        open_(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json of a saved dataset is missing or damaged"):
        open_(folder)


def example(**features) -> bytes:
    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name.replace("__", "/"): feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_records(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def imagenet_records(rows=range(12)):
    return [
        example(image__encoded=[PICTURES[n]], image__class__label=[n % 2], image__class__text=[LABELS[n].encode()])
        for n in rows
    ]


@pytest.mark.parametrize(("name", "compression"), [("a.tfrecord", ""), ("a.tfrecords.gz", "GZIP")])
def test_tf_examples_are_read_by_the_names_of_imagenet(tmp_path, open_, name, compression):
    assert_same(open_(write_records(tmp_path / name, imagenet_records(), compression)))


def test_several_tfrecord_files_count_rows_on(tmp_path, open_):
    (tmp_path / "d").mkdir()
    write_records(tmp_path / "d" / "a.tfrecord-00000-of-00002", imagenet_records(range(7)))
    plain = [example(image=[PICTURES[n]], label=[LABELS[n].encode()]) for n in range(7, 12)]
    write_records(tmp_path / "d" / "a.tfrecord-00001-of-00002", imagenet_records(range(7, 12)))
    assert_same(open_(tmp_path / "d"))
    named = [example(image=[PICTURES[n]], label=[LABELS[n].encode()]) for n in range(7)] + plain
    assert_same(open_(write_records(tmp_path / "named.tfrecord", named)))


def test_a_damaged_tfrecord_file_is_refused(tmp_path, open_):
    path = write_records(tmp_path / "a.tfrecord", imagenet_records())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.tfrecord is damaged after \d records"):
        open_(path)
    with pytest.raises(DataError, match=r"no tf\.Example"):
        open_(write_records(tmp_path / "b.tfrecord", [b"\xff\xff"] * 2))
    two = [example(image=[PICTURES[0]], label=[n] * (n + 1)) for n in range(2)]
    with pytest.raises(DataError, match=r"Example 1 .* has 2 values of 'label'"):
        open_(write_records(tmp_path / "c.tfrecord", two))


SOURCE_MODULE = """
import pyarrow as pa
import pyarrow.parquet as pq

def dicts():
    yield from whole().to_pylist()

def whole():
    return pq.read_table({path!r})

def batches():
    return whole().to_batches(max_chunksize=5)

def late_key():
    for row, content in enumerate(dicts()):
        yield {{**content, "more": 1}} if row else content
    yield from ({{**content, "extra": 1}} for content in dicts() for _ in range(9))

def number():
    return 3

def numbers():
    return range(3)

def broken():
    yield from dicts()
    raise KeyError("lost")

def changing(calls=[]):
    calls.append(1)
    for row in whole().to_pylist():
        yield {{**row, "image": row["image"] + bytes(len(calls))}}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    path = write(table(), tmp_path / "rows.parquet")
    (tmp_path / "my_source.py").write_text(SOURCE_MODULE.format(path=str(path)))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_source"
    sys.modules.pop("my_source", None)


@pytest.mark.parametrize("function", ["dicts", "whole", "batches"])
def test_a_function_gives_dicts_a_table_or_batches(open_, module, function):
    dataset = open_(f"{module}:{function}")
    assert_same(dataset)
    assert dataset.examples["name"][3].as_py() == f"{module}:{function}#3"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("number", "gave int; dicts, a pyarrow Table or RecordBatches"),
        ("numbers", "gave int as row 0; a dict is allowed"),
        ("broken", r"KeyError: 'lost' .*my_source\.py, line"),
        ("late_key", "'extra'.*which the first rows lack"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(open_, module, function, message):
    with pytest.raises(DataError, match=message):
        open_(f"{module}:{function}")


def test_a_function_that_is_not_there_or_gives_other_rows_each_time_is_refused(tmp_path, open_, module):
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        open_(f"{module}:nothing")
    dataset = open_(f"{module}:changing")
    next((tmp_path / "cache").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="have changed since"):
        dataset.reader.read(np.array([0]))


def sources(home):
    """Write the same rows as every kind of source."""
    home.mkdir()
    rows = [(f"{n}.png", LABELS[n]) for n in range(12)]
    write_folder(home / "text", [name for name, _ in rows])
    write_folder(home / "folder", [f"{label}/{name}" for name, label in rows])
    jsonl = home / "text" / "a.jsonl"
    jsonl.write_text("".join(json.dumps({"path": name, "label": label}) + "\n" for name, label in rows))
    return {
        "folder": home / "folder",
        "parquet": write(table(), home / "a.parquet"),
        "arrow": write(table(), home / "a.arrow", "file"),
        "csv": separated(home / "text" / "a.csv", ",", rows),
        "jsonl": jsonl,
        "tfrecord": write_records(home / "a.tfrecord", imagenet_records()),
        "huggingface": save_to_disk(home / "saved", hugging_face_table(), FEATURES),
    }


def test_fingerprints_follow_the_content_and_not_the_place(tmp_path, open_):
    first = {kind: open_(path).fingerprint for kind, path in sources(tmp_path / "a").items()}
    # The copies have other times as well.
    second = {kind: open_(path).fingerprint for kind, path in sources(tmp_path / "b").items()}
    assert first == second
    changed = [*PICTURES[:11], picture(99)]
    (tmp_path / "a" / "text" / "11.png").write_bytes(changed[11])
    folder = tmp_path / "a" / "folder"
    next(folder.rglob("11.png")).write_bytes(changed[11])
    write(table(image=changed), tmp_path / "a" / "a.parquet")
    write(table(image=changed), tmp_path / "a" / "a.arrow", "file")
    records = [*imagenet_records(range(11)), imagenet_records([11])[0].replace(PICTURES[11], changed[11])]
    write_records(tmp_path / "a" / "a.tfrecord", records)
    shutil.rmtree(tmp_path / "a" / "saved")
    structs = [{"bytes": content, "path": None} for content in changed]
    content = hugging_face_table().set_column(0, "image", pa.array(structs))
    paths = {
        **{kind: tmp_path / "a" / f"a.{kind}" for kind in ("parquet", "arrow", "tfrecord")},
        **{kind: tmp_path / "a" / "text" / f"a.{kind}" for kind in ("csv", "jsonl")},
        "folder": folder,
        "huggingface": save_to_disk(tmp_path / "a" / "saved", content, FEATURES),
    }
    third = {kind: open_(paths[kind]).fingerprint for kind in first}
    assert {kind for kind in first if first[kind] == third[kind]} == set()


def test_an_unknown_source_gets_the_list_of_what_is_allowed(tmp_path, open_):
    (tmp_path / "a.xml").write_text("<a/>")
    for wrong in (tmp_path / "a.xml", tmp_path / "nothing"):
        with pytest.raises(DataError) as caught:
            open_(wrong)
        assert all(word in str(caught.value) for word in (".csv", ".tfrecord", "Hugging Face", "module:function"))


def test_a_gzip_that_is_no_tfrecord_is_refused(tmp_path, open_):
    (tmp_path / "a.tfrecord.gz").write_bytes(gzip.compress(b"nothing of the kind"))
    with pytest.raises(DataError, match="is damaged after 0 records"):
        open_(tmp_path / "a.tfrecord.gz")
