import contextlib
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayft.data.inputs import open_inputs
from rayft.errors import ConfigError, DataError
from rayft.serve.answers import Answer, as_json, as_text, open_output
from rayft.serve.batch import answer_all
from rayft.serve.predictor import Prediction

LABELS = ("dark", "light")


@pytest.fixture
def place(tmp_path):
    for number, name in enumerate(("b.PNG", "a/c.png", "a/.hidden/x.png")):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 60 * number).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    contents = [(tmp_path / "pictures" / name).read_bytes() for name in ("b.PNG", "a/c.png")]
    pq.write_table(pa.table({"image": contents}), tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"path": ["pictures/b.PNG", "pictures/gone.png"]}), tmp_path / "paths.parquet")
    return tmp_path


def test_files_folders_and_tables_come_in_the_order_named(place):
    file, folder, table = (str(place / name) for name in ("pictures/a/c.png", "pictures", "bytes.parquet"))
    inputs = open_inputs([file, folder, table], place / "cache")
    assert inputs.names.to_pylist() == [
        file,
        f"{folder}/a/c.png",
        f"{folder}/b.PNG",
        "bytes.parquet#0",
        "bytes.parquet#1",
    ]
    b, c = ((place / "pictures" / name).read_bytes() for name in ("b.PNG", "a/c.png"))
    assert [inputs.read(row) for row in range(len(inputs))] == [c, c, b, b, c]


def test_what_holds_no_picture_is_refused(place):
    (place / "empty").mkdir()
    pq.write_table(pa.table({"x": [1]}), place / "other.parquet")
    for name, words in [
        ("empty", "no picture"),
        ("gone.parquet", "There is no"),
        ("other.parquet", "has the columns x"),
    ]:
        with pytest.raises(DataError, match=words):
            open_inputs([str(place / name)], place / "cache")


class Brightness:
    """A predictor whose answer follows from the file alone."""

    labels = LABELS

    def predict(self, pictures, names):
        found = []
        for content, name in zip(pictures, names, strict=True):
            if not content.startswith(b"\x89PNG"):
                raise DataError(f"Picture {name!r} is not a picture.", "Give one.")
            found.append(Prediction("dark", 0.75, np.array([0.75, 0.25], np.float32)))
        return found


def test_a_bad_picture_leaves_the_others_alone(place):
    (place / "pictures" / "bad.png").write_bytes(b"nothing")
    inputs = open_inputs([str(place / "pictures"), str(place / "paths.parquet")], place / "cache")
    answers = [answer for some in answer_all(Brightness(), inputs) for answer in some]
    assert [answer.name.rpartition("/")[2] for answer in answers] == ["c.png", "b.PNG", "bad.png", "b.PNG", "gone.png"]
    assert [answer.error is None for answer in answers] == [True, True, False, True, False]
    assert "Cannot read" in answers[-1].error


ANSWERS = [Answer("a.png", np.array([0.25, 0.75], np.float32)), Answer("b.png", None, "b.png is bad")]


def test_answers_are_one_line_each():
    assert [json.loads(as_json(answer, LABELS, 2)) for answer in ANSWERS] == [
        {
            "input": "a.png",
            "label": "light",
            "probability": 0.75,
            "top": [{"label": "light", "probability": 0.75}, {"label": "dark", "probability": 0.25}],
        },
        {"input": "b.png", "error": "b.png is bad"},
    ]
    assert as_text(ANSWERS[0], LABELS, 1) == "a.png  light 0.750"


def test_answers_are_written_as_json_lines_or_parquet_and_whole_or_not_at_all(tmp_path):
    for name in ("x/answers.jsonl", "answers.parquet"):
        with open_output(tmp_path / name, LABELS, 1) as write:
            write(ANSWERS[:1])
            write(ANSWERS[1:])
            assert not (tmp_path / name).exists()
    lines = (tmp_path / "x" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["a.png", "b.png"]
    table = pq.read_table(tmp_path / "answers.parquet")
    assert json.loads(table.schema.metadata[b"classes"]) == list(LABELS)
    assert table.to_pylist() == [
        {"input": "a.png", "label": "light", "probability": 0.75, "probabilities": [0.25, 0.75], "error": None},
        {"input": "b.png", "label": None, "probability": None, "probabilities": None, "error": "b.png is bad"},
    ]
    with pytest.raises(ConfigError, match=r"\.csv"), open_output(tmp_path / "a.csv", LABELS, 1):
        pass
    with contextlib.suppress(RuntimeError), open_output(tmp_path / "broken.jsonl", LABELS, 1) as write:
        write(ANSWERS)
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "x"]


def test_inputs_travel_to_other_processes(place):
    inputs = open_inputs([str(place / "bytes.parquet")], place / "cache")
    again = pickle.loads(pickle.dumps(inputs))
    assert again.names == inputs.names
    assert again.read(1) == inputs.read(1)
