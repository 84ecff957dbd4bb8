import io
import json
import pickle
import shutil
import stat
import tarfile
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from rayft.config import parse_config
from rayft.errors import PackageError
from rayft.package.archive import unpacked
from rayft.package.golden import Golden
from rayft.package.read import read_package
from rayft.package.seal import MANIFEST_FILE, SEALED_FILES, check_seal, seal
from rayft.package.write import write_package
from rayft.serve.predictor import Predictor

FILES = (*SEALED_FILES, MANIFEST_FILE)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "package"
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(buffer, "PNG")
    logits = np.asarray(model(np.full((1, 8, 8, 3), (9, 8, 7), "float32")))
    raised = np.exp(logits - logits.max())
    write_package(
        folder,
        model=model,
        config=parse_config({"name": "zoo", "data": {"source": "x"}}),
        labels=("cat", "dog"),
        image_size=(8, 8),
        licence="MIT",
        metrics={"accuracy": 0.5},
        dataset_fingerprint="abc",
        blocks_frozen=[],
        golden=Golden((buffer.getvalue(),), (raised / raised.sum()).astype("float32")),
    )
    return folder


@pytest.fixture
def package(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "package")


def test_an_untouched_package_opens_and_holds_just_its_files(package):
    assert sorted(path.name for path in package.iterdir()) == sorted(FILES)
    assert Predictor.load(package).replay_golden() < 1e-6


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_anywhere_in_a_file_is_refused_with_its_name(package, name):
    original = (package / name).read_bytes()
    for position in np.linspace(0, len(original) - 1, 60).astype(int):
        content = bytearray(original)
        content[position] ^= 1
        (package / name).write_bytes(content)
        with pytest.raises(PackageError, match=rf"{name} (was changed|does not list)"):
            check_seal(package)
    for content in (original[:-1], original + b"\n", b""):
        (package / name).write_bytes(content)
        with pytest.raises(PackageError, match=rf"{name} (was changed|does not list)"):
            check_seal(package)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_with_its_name(package, name):
    (package / name).unlink()
    with pytest.raises(PackageError, match=f"lacks .*{name}"):
        check_seal(package)


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused_with_its_name(package, name, tmp_path):
    (package / name).rename(tmp_path / name)
    (package / name).symlink_to(tmp_path / name)
    with pytest.raises(PackageError, match=f"{name} is a link"):
        check_seal(package)


@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed"])
def test_an_added_pickle_is_refused_with_its_name(package, listed):
    (package / "weights.pkl").write_bytes(pickle.dumps({}))
    if listed:
        lines = (package / MANIFEST_FILE).read_text().splitlines(keepends=True)[1:]
        lines.append(f"{'0' * 64}  weights.pkl\n")
        (package / MANIFEST_FILE).write_text("".join(lines))
    with pytest.raises(PackageError, match=r"weights\.pkl does not belong"):
        read_package(package)


def _rewrite_model(package, change):
    """Replace config.json inside model.keras, and seal the package anew."""
    path = package / "model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = json.dumps(change(json.loads(members["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    seal(package)


def _with_class(module, name, registered=None):
    def change(config):
        layer = config["config"]["layers"][1]
        layer |= {"module": module, "class_name": name, "registered_name": registered}
        return config

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_class("keras.layers", "Lambda"), "holds a Lambda layer"),
        (_with_class("keras.src.layers.core.lambda_layer", "Lambda"), "holds a Lambda layer"),
        (_with_class(None, "x", "own>Lambda"), "holds a own>Lambda layer"),
        (_with_class("keras.layers", "TFSMLayer"), "holds a TFSMLayer layer"),
        (_with_class("os", "system"), r"holds a os\.system"),
        (_with_class("keras.utils", "get_file"), r"holds a keras\.utils\.get_file"),
        (_with_class("kerasx.layers", "Dense"), r"holds a kerasx\.layers\.Dense"),
        (lambda config: {**config, "extra": {"class_name": "__lambda__", "config": {}}}, "holds a __lambda__ layer"),
    ],
)
def test_code_in_the_network_is_refused_although_the_seal_is_good(package, change, message):
    _rewrite_model(package, change)
    with pytest.raises(PackageError, match=rf"model\.keras {message}"):
        read_package(package)


def test_a_real_lambda_layer_is_refused_when_writing_and_when_reading(package, tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x)(image)).save(package / "model.keras")
    seal(package)
    with pytest.raises(PackageError, match=r"model\.keras holds a Lambda layer"):
        read_package(package)


def _model_member(name, content=b"x", link=False, compression=zipfile.ZIP_STORED):
    def add(package):
        with zipfile.ZipFile(package / "model.keras", "a", compression) as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            info.compress_type = compression
            archive.writestr(info, content)

    return add


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil", "assets/../../evil", "code.pkl", "assets/words.txt", "config.json"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_foreign_member_of_the_model_file_is_refused(package, name):
    _model_member(name)(package)
    seal(package)
    with pytest.raises(PackageError, match=r"model\.keras holds"):
        read_package(package)


def test_a_bomb_in_the_model_file_is_refused_without_unpacking_it(package):
    path = package / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("metadata.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
        archive.writestr("config.json", b" " * (100 << 20))
    seal(package)
    with pytest.raises(PackageError, match=r"model\.keras is a zip bomb: 'config\.json'"):
        read_package(package)


def _zip(folder, target, extra=()):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
        for name, content, mode in extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return target


def _tar(folder, target, extra=()):
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, folder.name)
        for name, content, kind in extra:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return target


def test_packages_open_from_archives(package, tmp_path):
    expected = read_package(package).identity
    for archive in (_zip(package, tmp_path / "p.zip"), _tar(package, tmp_path / "p.tar.gz")):
        assert Predictor.load(archive).identity == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.tar.gz", "p.zip", "package"]


ZIPPED = [
    ("../package.json", b"x", stat.S_IFREG),
    ("/etc/passwd", b"x", stat.S_IFREG),
    ("C:\\package.json", b"x", stat.S_IFREG),
    ("a/b/package.json", b"x", stat.S_IFREG),
    ("package.json", b"x", stat.S_IFREG),
    ("notes.pkl", b"x", stat.S_IFREG),
    ("MODEL_CARD.md", b"/etc/passwd", stat.S_IFLNK),
]
TARRED = [
    ("../package.json", b"x", tarfile.REGTYPE),
    ("/etc/passwd", b"x", tarfile.REGTYPE),
    ("package/../../x", b"x", tarfile.REGTYPE),
    ("package/notes.pkl", b"x", tarfile.REGTYPE),
    ("package/link", b"", tarfile.SYMTYPE),
    ("package/link", b"", tarfile.LNKTYPE),
    ("package/pipe", b"", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize(
    ("pack", "suffix", "member"),
    [*((_zip, ".zip", member) for member in ZIPPED), *((_tar, ".tar.gz", member) for member in TARRED)],
    ids=lambda value: repr(value[0]) if isinstance(value, tuple) else "",
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_hostile_member_of_an_archive_is_refused_with_its_name(package, tmp_path, pack, suffix, member):
    archive = pack(package, tmp_path / f"p{suffix}", [member])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PackageError) as caught:
        Predictor.load(archive)
    assert str(archive) in caught.value.args[0]
    assert repr(member[0]) in caught.value.args[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("pack", "suffix"), [(_zip, ".zip"), (_tar, ".tar.gz")])
def test_an_archive_bomb_is_refused(tmp_path, pack, suffix):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "golden.arrow").write_bytes(bytes(32 << 20))
    archive = pack(folder, tmp_path / f"bomb{suffix}")
    with pytest.raises(PackageError, match=r"'(package/)?golden\.arrow' unpacks to over"), unpacked(archive):
        pass


@pytest.mark.parametrize("name", ["p.zip", "p.tar.gz"])
def test_what_is_no_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(PackageError, match="is damaged"):
        Predictor.load(tmp_path / name)
