"""Sources on S3, against a server that the test starts."""

import numpy as np
import pytest
from s3_server import Bucket, s3_bucket
from test_data_sources import LABELS, assert_same, sources

from rayft.config import parse_config
from rayft.data.dataset import open_dataset
from rayft.errors import DataError
from rayft.storage import Storage


@pytest.fixture(scope="module")
def bucket():
    with s3_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def uploaded(bucket: Bucket, tmp_path_factory):
    paths = sources(tmp_path_factory.mktemp("local") / "d")
    root = paths["parquet"].parent
    Storage.open(bucket.uri("d")).upload_folder(root)
    return {kind: path.relative_to(root.parent).as_posix() for kind, path in paths.items()}


def open_(bucket, path, cache, **data):
    return open_dataset(parse_config({"data": {"source": bucket.uri(path), **data}}), cache)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl", "tfrecord", "huggingface"])
def test_every_source_reads_from_s3(bucket, uploaded, tmp_path, kind):
    assert_same(open_(bucket, uploaded[kind], tmp_path))


def test_a_folder_of_classes_on_s3_is_read_once_and_then_from_the_cache(bucket, uploaded, tmp_path):
    dataset = open_(bucket, uploaded["folder"], tmp_path)
    rows = np.arange(12)
    pictures = dataset.reader.read(rows)
    assert dataset.labels == tuple(sorted(set(LABELS)))
    Storage.open(bucket.uri(uploaded["folder"])).delete()
    assert dataset.reader.read(rows) == pictures
    for path in tmp_path.glob("files/??/*"):
        path.unlink()
    with pytest.raises(DataError, match="Cannot read"):
        dataset.reader.read(rows)


def test_the_copies_of_remote_files_stay_within_cache_bytes(bucket, uploaded, tmp_path):
    dataset = open_(bucket, uploaded["csv"], tmp_path, cache_bytes=300)
    size = len(dataset.reader.read(np.array([0]))[0])
    for _ in range(2):
        assert len(dataset.reader.read(np.arange(12))) == 12
        kept = [path.stat().st_size for path in tmp_path.glob("files/??/*")]
        assert 300 - size <= sum(kept) + size <= 300 + size


def test_a_missing_object_is_named_with_what_is_allowed(bucket, tmp_path):
    with pytest.raises(DataError, match=r"does not exist"):
        open_(bucket, "nothing.parquet", tmp_path)
