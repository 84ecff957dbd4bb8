import dataclasses
import gc
import time
import weakref

import numpy as np
import pytest
from trunks import noise, write_tuned

from rayft.config import BatchingConfig
from rayft.errors import PackageError
from rayft.package.golden import Golden, write_golden
from rayft.package.seal import seal
from rayft.registry.registry import Registry
from rayft.serve.engine.engine import BatchingEngine
from rayft.serve.engine.source import find_sources
from rayft.serve.engine.watch import Watch


@dataclasses.dataclass
class Swaps:
    """Remembers what it hears."""

    heard: list = dataclasses.field(default_factory=list)

    def swapped(self, before, after):
        self.heard.append((before and before.version, after.version))

    def swap_failed(self, model, problem):
        self.heard.append((model, problem))


def broken(folder):
    """Make a package whose golden answers are others than its network gives."""
    write_golden(folder, Golden((noise(1),), np.array([[0.0, 0.0, 1.0]], "float32")))
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    home = tmp_path_factory.mktemp("packages")
    return {
        "good": write_tuned(home / "good", "zoo", seed=1),
        "better": write_tuned(home / "better", "zoo", seed=2),
        "bad": broken(write_tuned(home / "bad", "zoo", seed=3)),
    }


@pytest.fixture
def shelf(tmp_path, packages):
    registry = Registry.open(tmp_path / "registry")
    for package in packages.values():
        registry.register(package, "zoo")
    return registry


def watch_of(shelf, model="zoo"):
    sources = find_sources([model], shelf.storage.uri)
    engine = BatchingEngine([source.name for source in sources], BatchingConfig(max_batch_size=1))
    return Watch(engine, sources, Swaps())


def test_a_promotion_a_bad_one_and_a_rollback_are_followed(shelf):
    shelf.promote(shelf.find("zoo@1"), "champion")
    watch = watch_of(shelf)
    engine, swaps = watch.engine, watch.observer.heard
    watch.load_all()
    watch.look()
    assert (engine.find("zoo").version, engine.find("zoo").aliases) == ("1", ("champion",))
    shelf.promote(shelf.find("zoo@2"), "champion")
    watch.look()
    assert engine.find("zoo").version == "2"
    shelf.promote(shelf.find("zoo@3"), "champion")
    watch.look()
    watch.look()
    served = engine.find("zoo")
    assert (served.version, served.aliases) == ("2", ())
    assert served.problem.startswith("version 2 is served, for zoo@3 cannot be: Golden example 0")
    # Said once: it is not tried again at every look.
    assert swaps == [(None, "1"), ("1", "2"), ("zoo", served.problem)]
    shelf.rollback("zoo")
    watch.look()
    served = engine.find("zoo")
    assert (served.version, served.aliases, served.problem) == ("2", ("champion",), None)
    engine.close()


def test_a_version_that_has_left_leaves_the_memory_also_where_the_collector_was_told_to_pass_it_by(shelf):
    shelf.promote(shelf.find("zoo@1"), "champion")
    watch = watch_of(shelf)
    watch.load_all()
    left = weakref.ref(watch.engine._members["zoo"][0].predictor.parts[1])
    # As Ray Serve does once a replica has started.
    gc.collect()
    gc.freeze()
    try:
        shelf.promote(shelf.find("zoo@2"), "champion")
        watch.look()
        assert watch.engine.find("zoo").version == "2"
        watch.look()
        assert left() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        watch.engine.close()


def test_an_alias_of_the_served_version_shows(shelf):
    watch = watch_of(shelf, "zoo@2")
    watch.load_all()
    shelf.promote(shelf.find("zoo@2"), "blue")
    shelf.promote(shelf.find("zoo@1"), "champion")
    watch.look()
    assert (watch.engine.find("zoo").version, watch.engine.find("zoo").aliases) == ("2", ("blue",))
    watch.engine.close()


def test_at_the_start_a_bad_champion_gives_way_to_the_one_before_and_a_bad_only_one_is_refused(shelf):
    shelf.promote(shelf.find("zoo@1"), "champion")
    shelf.promote(shelf.find("zoo@3"), "champion")
    watch = watch_of(shelf)
    watch.load_all()
    assert watch.engine.find("zoo").version == "1"
    assert "zoo@3 cannot be" in watch.engine.find("zoo").problem
    watch.engine.close()
    shelf.promote(shelf.find("zoo@3"), "only")
    refused = watch_of(shelf, "zoo@only")
    with pytest.raises(PackageError, match="Golden example 0"):
        refused.load_all()
    refused.engine.close()


def test_the_thread_follows_by_itself(shelf):
    shelf.promote(shelf.find("zoo@1"), "champion")
    watch = watch_of(shelf)
    watch.poll_s = 0.05
    watch.load_all()
    watch.start()
    shelf.promote(shelf.find("zoo@2"), "champion")
    end = time.monotonic() + 60
    while watch.engine.find("zoo").version != "2" and time.monotonic() < end:
        time.sleep(0.05)
    assert watch.engine.find("zoo").version == "2"
    watch.stop()
    watch.engine.close()
