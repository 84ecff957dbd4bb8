"""Wrong input ends with exit code 2, the value, a fix, no traceback, and nothing half-written."""

import io
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayft import cli


def _png(side: int = 16, colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (colour, 0, 255 - colour)).save(buffer, "PNG")
    return buffer.getvalue()


def _bomb(side: int = 20_000) -> bytes:
    """A PNG whose header promises side x side pixels, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _folder(home: Path, **classes: list[bytes]) -> None:
    for name, pictures in classes.items():
        (home / "data" / name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            (home / "data" / name / f"{number}.png").write_bytes(picture)


def _good(home: Path) -> None:
    _folder(home, cat=[_png(colour=c) for c in range(8)], dog=[_png(colour=200 + c) for c in range(8)])


def _table(home: Path, **columns) -> None:
    rows = 12
    table = {"image": [_png(colour=c) for c in range(rows)], "label": [c % 2 for c in range(rows)], **columns}
    _save(home, {name: values for name, values in table.items() if values is not None})


def _save(home: Path, columns: dict) -> None:
    pq.write_table(pa.table(columns), home / "data.parquet")


def _without_label(home: Path) -> None:
    _table(home, label=None)


def _without_image(home: Path) -> None:
    _table(home, image=None)


def _bad_picture(content: bytes):
    def make(home: Path) -> None:
        _good(home)
        (home / "data" / "cat" / "bad.png").write_bytes(content)

    return make


def _write(name: str, content: bytes):
    return lambda home: (home / name).write_bytes(content)


def _cut_table(home: Path) -> None:
    _table(home)
    path = home / "data.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def _storage_is_a_file(home: Path) -> None:
    _good(home)
    (home / "store").write_text("")


TABLE = "data.source=data.parquet"

# What to make in an empty folder, overrides of the config, what the message must hold.
CASES = {
    # Settings: a value of the wrong type, out of bounds, unknown, or at odds with another.
    "no such key": (_good, ["train.epoch=3"], ["train.epoch", "'epochs'"]),
    "no such section": (_good, ["trian.epochs=3"], ["trian", "'train'"]),
    "epochs 0": (_good, ["train.epochs=0"], ["train.epochs: got 0", "from 1"]),
    "epochs in words": (_good, ["train.epochs=ten"], ['"ten"', "whole number"]),
    "epochs a bool": (_good, ["train.epochs=true"], ["got true", "whole number"]),
    "rate negative": (_good, ["optim.learning_rate=-1e-3"], ["-0.001", "above 0"]),
    "rate NaN": (_good, ["optim.learning_rate=.nan"], ["NaN", "above 0"]),
    "batch of 0": (_good, ["data.global_batch_size=0"], ["got 0", "from 1, up to 65536"]),
    "unknown precision": (_good, ["train.precision=int8"], ['"int8"', "bfloat16"]),
    "unknown metric": (_good, ["train.metric=f2"], ['"f2"', "macro_f1"]),
    "unknown loss": (_good, ["train.loss=hinge"], ['"hinge"', "module:function"]),
    "step without colon": (_good, ["train.step=own"], ['"own"', "module:function"]),
    "name with slash": (_good, ["name=../x"], ['"../x"', "letters, digits"]),
    "two channels": (_good, ["data.channels=2"], ["got 2", "1, 3"]),
    "tiny pictures": (_good, ["data.image_size=4"], ["got 4", "from 8, up to 4096"]),
    "depth negative": (_good, ["freeze.depth=-1"], ["got -1", "from 0"]),
    "depth fraction above 1": (_good, ["freeze.depth=1.5"], ["got 1.5", "from 0, up to 1"]),
    "nothing to train on": (_good, ["data.validation_fraction=0.6", "data.test_fraction=0.5"], ["0.6", "below 1"]),
    "more workers than a batch": (_good, ["cluster.workers=33"], ["33", "32"]),
    "no backbone, pooled": (_good, ["model.backbone=none"], ["avg", "flatten"]),
    "override without value": (_good, ["train.epochs"], ["'train.epochs'", "section.field=value"]),
    "override no YAML": (_good, ["name=["], ["'['", "line 1"]),
    # Datasets.
    "no source": (lambda home: None, [], ["data", "does not exist"]),
    "source of unknown format": (_write("data.xml", b"<a/>"), ["data.source=data.xml"], ["data.xml", ".parquet"]),
    "unknown scheme": (_good, ["data.source=ftp://host/x"], ["ftp://host/x", "s3://"]),
    "empty folder": (lambda home: (home / "data").mkdir(), [], ["data"]),
    "one class": (lambda home: _folder(home, cat=[_png()] * 4), [], ["'cat'"]),
    "empty class": (lambda home: _folder(home, cat=[_png()] * 4, dog=[]), [], ["dog"]),
    "classes too small to split": (
        lambda home: _folder(home, cat=[_png()], dog=[_png()]), ["data.validation_fraction=0.5"], ["fewer than 2"],
    ),
    "zero-byte picture": (_bad_picture(b""), [], ["bad.png", "0 bytes"]),
    "text as picture": (_bad_picture(b"hello"), [], ["bad.png", "not a picture"]),
    "cut-off picture": (_bad_picture(_png(64)[:60]), [], ["bad.png"]),
    "20000x20000 bomb": (_bad_picture(_bomb()), [], ["bad.png", "20000"]),
    "more pixels than allowed": (_bad_picture(_png(64)), ["data.max_pixels=1000"], ["64 x 64", "1000"]),
    "all pictures bad": (
        lambda home: _folder(home, cat=[b"x"] * 4, dog=[b"y"] * 4), ["data.on_bad=skip"], ["training"],
    ),
    "no label column": (_without_label, [TABLE], ["label"]),
    "no image column": (_without_image, [TABLE], ["image"]),
    "label column not there": (_table, [TABLE, "data.columns.label=kind"], ["kind"]),
    "split column not there": (_table, [TABLE, "data.columns.split=part"], ["part"]),
    "null labels": (lambda home: _table(home, label=[0, 1, None] * 4), [TABLE], ["label"]),
    "NaN labels": (lambda home: _table(home, label=[0.0, 1.0, float("nan")] * 4), [TABLE], ["label"]),
    "fractional labels": (lambda home: _table(home, label=[0.5, 1.0] * 6), [TABLE], ["0.5"]),
    "one label": (lambda home: _table(home, label=[1] * 12), [TABLE], ["1"]),
    "unknown split": (lambda home: _table(home, split=["train", "holdout"] * 6), [TABLE], ["holdout"]),
    "no training split": (lambda home: _table(home, split=["test"] * 12), [TABLE], ["train"]),
    "group in two splits": (
        lambda home: _table(home, split=["train"] * 6 + ["test"] * 6, group=["a"] * 12), [TABLE], ["'a'"],
    ),
    "null picture": (lambda home: _table(home, image=pa.array([None] + [_png()] * 11, pa.binary())), [TABLE], ["#0"]),
    "paths not there": (
        lambda home: _table(home, image=None, path=[f"{n}.png" for n in range(12)]), [TABLE], ["0.png"],
    ),
    "cut-off table": (_cut_table, [TABLE], ["data.parquet"]),
    "text as table": (_write("data.parquet", b"hello"), [TABLE], ["data.parquet"]),
    "empty table": (lambda home: _save(home, {"image": [], "label": []}), [TABLE], ["holds no rows", "examples"]),
    "more workers than examples": (_good, ["cluster.workers=20"], ["20", "cluster.workers"]),
    # Storage.
    "storage is a file": (_storage_is_a_file, ["storage=store"], ["store"]),
    "storage below a file": (_storage_is_a_file, ["storage=store/below"], ["store"]),
    "storage cannot be written": (_good, ["storage=/proc/rayft"], ["/proc/rayft"]),
    "storage of unknown scheme": (_good, ["storage=ftp://host/x"], ["ftp://host/x"]),
    # Cluster.
    "more CPUs than there are": (_good, ["cluster.workers=2", "cluster.cpus_per_worker=900"], ["1800", "CPU"]),
    "more GPUs than there are": (
        _good, ["cluster.workers=12", "cluster.cpus_per_worker=0.01", "cluster.gpus_per_worker=1"], ["12 GPU"],
    ),
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "config.yaml").write_text("data: {source: data}\n")
    return work


def _check(arguments: list[str], parts: list[str], capsys) -> None:
    code = cli.main(arguments)
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert shown.out == ""
    problem, fix = shown.err[shown.err.index("error: ") :].split("\nfix: ")
    assert fix.strip()
    assert "Traceback" not in shown.err
    for part in parts:
        assert part in f"{problem} {fix}"


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_run_is_refused(case, home, capsys):
    make, overrides, parts = CASES[case]
    make(home)
    before = sorted(home.rglob("*"))
    _check(["train", "config.yaml", *(word for item in overrides for word in ("--set", item))], parts, capsys)
    assert sorted(home.rglob("*")) == before


FILES = {
    "not YAML": ("a: [1", ["config.yaml", "line 1"]),
    "duplicate key": ("data: {source: x}\ndata: {source: y}", ["'data'", "second time"]),
    "alias bomb": ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", ["aliases"]),
    "Python tag": ("a: !!python/object:os.system x", ["tag"]),
    "empty file": ("", ["nothing"]),
    "a list": ("- 1", ["[1]"]),
    "no data section": ("name: x", ["data: is required"]),
    "empty section": ("data:", ["data: got nothing", "source"]),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_config_file_is_refused(case, home, capsys):
    text, parts = FILES[case]
    (home / "config.yaml").write_text(text)
    _check(["train", "config.yaml"], parts, capsys)


@pytest.mark.parametrize("path", ["absent.yaml", "."])
def test_an_unreadable_config_file_is_refused(path, home, capsys):
    _check(["train", path], [path], capsys)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["absent", "a.png"], "absent"), (["s4://b/x", "a.png"], "s4://b/x"), (["absent", "."], "no picture")],
)
def test_a_wrong_model_or_picture_is_refused(arguments, part, home, capsys):
    _check(["predict", *arguments], [part], capsys)
