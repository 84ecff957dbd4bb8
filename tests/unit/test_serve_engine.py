import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from trunks import SIZE, noise, write_tuned

import rayft
from rayft.config import BatchingConfig
from rayft.errors import ConfigError, PackageError
from rayft.package.golden import Golden, write_golden
from rayft.package.seal import seal
from rayft.serve.contract import RequestError
from rayft.serve.engine.engine import BatchingEngine
from rayft.serve.engine.ladder import choose_size, ladder, padded_size
from rayft.serve.engine.load import load_engine
from rayft.serve.engine.open import open_source
from rayft.serve.engine.request import Request, Row
from rayft.serve.engine.share import passes_at_once, threads_of_a_pass
from rayft.serve.engine.source import find_sources

PICTURES = [noise(seed) for seed in range(20, 40)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    home = tmp_path_factory.mktemp("packages")
    return {
        "one": write_tuned(home / "one", "one", seed=1),
        "two": write_tuned(home / "two", "two", seed=2, labels=("a", "b", "c", "d"), temperature=2.0),
        "whole": write_tuned(home / "whole", "whole", seed=3, prefix_seed=None),
    }


@pytest.fixture(scope="module")
def engine(packages):
    loaded = load_engine([str(path) for path in packages.values()], batching=BatchingConfig(max_batch_size=8))
    yield loaded
    loaded.close()


def soon(seconds=60.0):
    return time.monotonic() + seconds


def alone(package, pictures):
    return np.stack([answer.probabilities for answer in rayft.load(package).predict(pictures)])


def assert_empty(engine):
    """The threads of the engine need a moment to find that nobody waits any more."""
    for _ in range(500):
        if not engine.queued:
            return
        time.sleep(0.01)
    raise AssertionError(f"{engine.queued} pictures wait")


def answer(engine, name, inputs, version=None, deadline=None):
    return asyncio.run(engine.answer(name, version, inputs, deadline=deadline or soon()))


class Gate:
    """Stands in for a prefix or suffix: counts its calls, and holds them while it is shut."""

    def __init__(self, through):
        self.through, self.calls, self.sizes, self.open = through, 0, [], threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def __call__(self, x):
        self.calls += 1
        self.sizes.append(int(x.shape[0]))
        self.entered.set()
        assert self.open.wait(30)
        return self.through(x)


@pytest.fixture
def gate(engine, monkeypatch):
    trunk = engine._members["one"][1]
    counting = Gate(trunk._prefix)
    monkeypatch.setattr(trunk, "_prefix", counting)
    return counting


def test_two_models_of_one_trunk_share_one_pass_of_the_prefix(engine, packages, gate):
    async def mixed():
        gate.open.clear()
        first = asyncio.ensure_future(engine.answer("one", None, PICTURES[:1], deadline=soon()))
        await asyncio.to_thread(gate.entered.wait, 30)
        # These two come while the first one is computed, and wait together.
        both = [
            asyncio.ensure_future(engine.answer(name, None, PICTURES[1:4], deadline=soon())) for name in ("one", "two")
        ]
        for _ in range(2000):
            if len(engine._members["one"][1]._rows) == 6:
                break
            await asyncio.sleep(0.01)
        before = gate.calls
        gate.open.set()
        answers = await asyncio.gather(first, *both)
        return answers, gate.calls - before

    # Whatever the sizes cost here, six rows are to be one pass.
    engine._members["one"][1]._seconds = dict.fromkeys((1, 2, 4, 8), 1.0)
    (_, one, two), calls = asyncio.run(mixed())
    assert calls == 1
    assert gate.sizes[-1] == 8
    np.testing.assert_allclose(one.probabilities, alone(packages["one"], PICTURES[1:4]), atol=1e-5)
    np.testing.assert_allclose(two.probabilities, alone(packages["two"], PICTURES[1:4]), atol=1e-5)
    assert one.model.prefix_hash == two.model.prefix_hash is not None
    assert set(one.timing_ms) == {"decode", "queue", "compute"}


def test_models_of_one_trunk_hold_one_copy_of_its_weights(packages):
    first, second = (open_source(source) for source in find_sources([str(packages["one"]), str(packages["two"])]))
    engine = BatchingEngine(["one", "two"], BatchingConfig(max_batch_size=1))
    engine.install(*first)
    own = weakref.ref(second[1].parts[0])
    engine.install(*second)
    gc.collect()
    assert own() is None
    assert second[1].prefix is first[1].prefix
    engine.close()


@pytest.mark.parametrize("name", ["one", "two", "whole"])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_answers_are_those_of_the_predictor_whatever_the_batch(engine, packages, name, count):
    encoded = answer(engine, name, PICTURES[:count])
    np.testing.assert_allclose(encoded.probabilities, alone(packages[name], PICTURES[:count]), atol=1e-5)
    predictor = rayft.load(packages[name])
    decoded = np.stack([predictor.decode(picture, "x") for picture in PICTURES[:count]])
    # Encoded pictures come one by one, in batches as they fall; some CPUs round differently at each size of a batch.
    np.testing.assert_allclose(answer(engine, name, decoded).probabilities, encoded.probabilities, rtol=1e-5)


def test_no_picture_is_no_answer(engine):
    assert answer(engine, "one", []).probabilities.shape == (0, 3)


@pytest.mark.parametrize(
    ("inputs", "status", "words"),
    [
        ([PICTURES[0], b"hello"], 422, "number 1 is not a picture"),
        ([b""], 422, "number 0 is empty"),
        (np.zeros((1, 5, 5, 3), "float32"), 422, r"shape \[1, 5, 5, 3\]"),
        (np.full((1, *SIZE, 3), np.nan, "float32"), 422, "no numbers"),
        (np.full((1, *SIZE, 3), 300, "float32"), 422, "outside of 0..255"),
        (np.zeros((1, *SIZE, 3), "bool"), 422, "type bool"),
        ([PICTURES[0]] * 300, 413, "300 pictures"),
    ],
)
def test_bad_inputs_are_refused_with_their_reason(engine, inputs, status, words):
    with pytest.raises(RequestError, match=words) as caught:
        answer(engine, "one", inputs)
    assert caught.value.status == status
    assert engine.in_flight == 0
    assert_empty(engine)


def test_a_picture_with_too_many_pixels_is_413(engine, monkeypatch):
    monkeypatch.setattr(engine._members["one"][0].predictor, "max_pixels", 143)
    with pytest.raises(RequestError, match="more than 143 pixels") as caught:
        answer(engine, "one", PICTURES[:1])
    assert caught.value.status == 413


def test_unknown_models_and_versions_are_404(engine):
    assert engine.find("one", "1").labels == ("cat", "dog", "eel")
    assert [model.name for model in engine.models()] == ["one", "two", "whole"]
    for name, version in (("nobody", None), ("one", "2")):
        with pytest.raises(RequestError) as caught:
            answer(engine, name, PICTURES[:1], version)
        assert caught.value.status == 404


def test_past_the_bound_of_the_queue_is_429_at_once_and_late_rows_are_not_computed(packages):
    engine = load_engine([str(packages["one"])], batching=BatchingConfig(max_batch_size=2, max_queue=4))
    trunk = engine._members["one"][1]
    gate = trunk._prefix = Gate(trunk._prefix)

    async def overload():
        gate.open.clear()
        running = asyncio.ensure_future(engine.answer("one", None, PICTURES[:1], deadline=soon()))
        await asyncio.to_thread(gate.entered.wait, 30)
        late = asyncio.ensure_future(engine.answer("one", None, PICTURES[:2], deadline=soon(0.2)))
        kept = asyncio.ensure_future(engine.answer("one", None, PICTURES[:2], deadline=soon()))
        await asyncio.sleep(0.05)
        with pytest.raises(RequestError, match="4 pictures wait, 4 may") as caught:
            await engine.answer("one", None, PICTURES[:1], deadline=soon())
        assert caught.value.status == 429
        with pytest.raises(RequestError, match="deadline") as caught:
            await late
        assert caught.value.status == 408
        before = len(gate.sizes)
        gate.open.set()
        await asyncio.gather(running, kept)
        return gate.sizes[before:]

    trunk._seconds = {1: 1.0, 2: 1.0}
    assert asyncio.run(overload()) == [2]
    assert engine.in_flight == 0
    assert_empty(engine)
    engine.close()


def test_a_late_row_is_dropped_also_where_the_loop_has_no_time_to_say_so(engine, gate):
    async def push():
        member, trunk = engine._members["one"]
        loop = asyncio.get_running_loop()
        late = Request(member, np.zeros((1, 3), "float32"), time.monotonic() - 1, loop.create_future(), loop, 1)
        trunk.admit(1)
        trunk.push(Row(late, 0, np.zeros((*SIZE, 3), "float32")))
        await asyncio.wait_for(late.future, 30)

    with pytest.raises(RequestError, match="deadline") as caught:
        asyncio.run(push())
    assert caught.value.status == 408
    assert gate.calls == 0


def test_a_request_whose_client_has_gone_is_not_computed(engine, gate):
    async def leave():
        gate.open.clear()
        running = asyncio.ensure_future(engine.answer("one", None, PICTURES[:1], deadline=soon()))
        await asyncio.to_thread(gate.entered.wait, 30)
        gone = asyncio.ensure_future(engine.answer("two", None, PICTURES[:8], deadline=soon()))
        await asyncio.sleep(0.05)
        gone.cancel()
        before = gate.calls
        gate.open.set()
        await running
        await engine.answer("one", None, PICTURES[:1], deadline=soon())
        return gate.calls - before

    assert asyncio.run(leave()) == 1


def test_another_version_takes_the_place_of_the_old_one(packages, tmp_path):
    engine = load_engine([str(packages["one"])], batching=BatchingConfig(max_batch_size=2))
    old = engine._members["one"][1]
    write_tuned(tmp_path / "next", "one", seed=9, prefix_seed=8)
    served, predictor = open_source(find_sources([str(tmp_path / "next")])[0])
    engine.install(served, predictor)
    np.testing.assert_allclose(
        answer(engine, "one", PICTURES).probabilities, alone(tmp_path / "next", PICTURES), atol=1e-5
    )
    old.join(10)
    assert not any(thread.is_alive() for thread in old._threads)
    engine.close()


def test_a_package_that_misses_its_golden_answers_leaves_all_as_it_was(engine, tmp_path):
    folder = write_tuned(tmp_path / "bad", "one", seed=5)
    write_golden(folder, Golden((PICTURES[0],), np.array([[0.0, 0.0, 1.0]], "float32")))
    seal(folder)
    before = engine.models()
    with pytest.raises(PackageError, match="Golden example 0"):
        engine.install(*open_source(find_sources([str(folder)])[0]))
    assert engine.models() == before


def test_a_failing_pass_tells_whoever_waits_and_the_next_one_runs(engine, gate):
    through, gate.through = gate.through, lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        answer(engine, "one", PICTURES[:1])
    gate.through = through
    assert answer(engine, "one", PICTURES[:1]).probabilities.shape == (1, 3)
    assert not engine.broken


def test_with_two_threads_two_passes_run_at_once_and_share_what_waits(packages, monkeypatch):
    engine = load_engine([str(packages["one"])], batching=BatchingConfig(max_batch_size=8), threads=2)
    trunk = engine._members["one"][1]
    both = threading.Barrier(2)
    inner, sizes = trunk._prefix, []

    def prefix(x):
        sizes.append(int(x.shape[0]))
        # A lone pass would wait in vain.
        both.wait(30)
        return inner(x)

    monkeypatch.setattr(trunk, "_prefix", prefix)
    with trunk._changed:
        # Both threads find all eight.
        request = asyncio.run(_pushed(engine, trunk, 8))
    assert_empty(engine)
    for thread in trunk._threads:
        assert thread.is_alive()
    engine.close()
    assert not any(thread.is_alive() for thread in trunk._threads)
    assert sizes == [4, 4]
    assert request.left == 0
    np.testing.assert_allclose(request.probabilities, alone(packages["one"], PICTURES[:8]), atol=1e-6)


async def _pushed(engine, trunk, count):
    loop = asyncio.get_running_loop()
    member, classes = engine._members["one"][0], len(engine.models()[0].labels)
    request = Request(member, np.zeros((count, classes), np.float32), soon(), loop.create_future(), loop, count)
    trunk.admit(count)
    for index in range(count):
        trunk.push(Row(request, index, member.predictor.decode(PICTURES[index], "one")))
    return request


def test_only_a_pass_that_follows_on_others_waits_for_pictures_that_are_being_decoded(packages, monkeypatch):
    bounds = BatchingConfig(max_batch_size=2, max_wait_ms=1000)
    engine = load_engine([str(packages["one"])], batching=bounds)
    trunk = engine._members["one"][1]
    inner, sizes, turns = trunk._prefix, [], threading.Semaphore(0)
    gather, after = trunk._gather, []

    def gathering():
        after.append(len(sizes))
        gather()

    def prefix(x):
        sizes.append(int(x.shape[0]))
        assert turns.acquire(timeout=30)
        return inner(x)

    def wait_for_pass(number):
        end = time.monotonic() + 30
        while len(sizes) < number:
            assert time.monotonic() < end
            time.sleep(0.005)

    async def one_by_one():
        loop = asyncio.get_running_loop()
        request = Request(
            engine._members["one"][0], np.zeros((4, 3), np.float32), soon(), loop.create_future(), loop, 4
        )
        image = np.zeros((*SIZE, 3), np.float32)
        # All are let in, and come one after the other, as from the threads that decode them.
        trunk.admit(4)
        for index in range(2):
            trunk.push(Row(request, index, image))
            if index:
                turns.release()
            wait_for_pass(index + 1)
        trunk.push(Row(request, 2, image))
        turns.release()
        time.sleep(0.2)
        trunk.push(Row(request, 3, image))
        wait_for_pass(3)
        turns.release()
        await request.future

    monkeypatch.setattr(trunk, "_prefix", prefix)
    monkeypatch.setattr(trunk, "_gather", gathering)
    # Two cost as one.
    trunk._seconds = {1: 1.0, 2: 1.0}
    asyncio.run(one_by_one())
    engine.close()
    assert sizes == [1, 1, 2]
    assert after[0] == 2


def test_answers_with_several_threads_are_those_of_the_predictor(packages):
    engine = load_engine([str(packages["one"])], batching=BatchingConfig(max_batch_size=4), threads=3)

    async def many():
        return await asyncio.gather(
            *(engine.answer("one", None, PICTURES[n % 7 : n % 7 + 1 + n % 5], deadline=soon()) for n in range(60))
        )

    expected = alone(packages["one"], PICTURES)
    for n, found in enumerate(asyncio.run(many())):
        np.testing.assert_allclose(found.probabilities, expected[n % 7 : n % 7 + 1 + n % 5], atol=1e-6)
    assert engine.in_flight == 0
    assert_empty(engine)
    engine.close()


@pytest.mark.parametrize(
    ("cpus", "on_gpu", "asked", "expected"),
    [
        (1, False, None, (1, 1)),
        (2, False, None, (2, 1)),
        (6, False, None, (4, 2)),
        (16, False, None, (4, 4)),
        (16, True, None, (1, 16)),
        (16, False, 1, (1, 16)),
        (2, False, 3, (3, 1)),
    ],
)
def test_passes_divide_the_cpus_among_them(cpus, on_gpu, asked, expected):
    passes = passes_at_once(cpus, on_gpu=on_gpu, asked=asked)
    assert (passes, threads_of_a_pass(cpus, passes)) == expected


def test_a_trunk_has_a_thread_for_each_pass_that_the_settings_ask_for(packages):
    for asked, there in ((None, 2), (1, 1)):
        engine = load_engine([str(packages["one"])], batching=BatchingConfig(max_batch_size=1, passes=asked), threads=2)
        assert len(engine._members["one"][1]._threads) == there
        engine.close()


def test_two_models_of_one_name_are_refused(packages):
    with pytest.raises(ConfigError, match="both called 'one'"):
        find_sources([str(packages["one"]), str(packages["one"])])


def test_the_next_size_is_the_one_that_makes_a_picture_cheapest():
    assert ladder(12) == (1, 2, 4, 8, 12)
    assert padded_size(5, (1, 2, 4, 8)) == 8
    dear, flat = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.1}
    assert [choose_size(n, dear) for n in (1, 3, 5, 8, 50)] == [1, 2, 4, 8, 8]
    assert [choose_size(n, flat) for n in (1, 3, 5, 8, 50)] == [1, 4, 8, 8, 8]
