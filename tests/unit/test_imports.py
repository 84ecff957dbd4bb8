import sys

import pytest

from rayft.errors import ConfigError
from rayft.imports import load_object


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_fine.py").write_text("SIZE = 3\ndef my_loss(a, b):\n    return a - b\n")
    (tmp_path / "own_broken.py").write_text("x = 1\nraise LookupError('no such thing')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    yield
    for name in ("own_fine", "own_broken"):
        sys.modules.pop(name, None)


def test_a_function_is_found_in_the_working_directory(own_code):
    before = list(sys.path)
    assert load_object("own_fine:my_loss", "train.loss")(5, 3) == 2
    assert sys.path == before


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("own_fine:my_los", ["train.loss is 'own_fine:my_los'", "no 'my_los'", "my_loss"]),
        ("own_fine:SIZE", ["holds int, not a function"]),
        ("own_broken:f", ["LookupError: no such thing", "own_broken.py, line 2"]),
        ("own_absent:f", ["No module named 'own_absent'"]),
        ("own_fine", ["module:function is allowed"]),
    ],
)
def test_what_is_wrong_with_an_import_path_is_named(own_code, path, parts):
    with pytest.raises(ConfigError) as caught:
        load_object(path, "train.loss")
    for part in parts:
        assert part in caught.value.args[0]
