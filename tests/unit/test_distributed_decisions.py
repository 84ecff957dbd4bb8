import os
import platform
import socket
import subprocess
import sys

import pytest

from rayft.capacity import check_capacity
from rayft.config import ClusterConfig
from rayft.distributed.allocator import allocator_environment, inherited_environment
from rayft.distributed.cluster import connect
from rayft.distributed.devices import DevicePlan, plan_devices
from rayft.errors import ClusterError


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"),
    [
        (1, 0, DevicePlan(1, 2, "RING", False)),
        (0.5, 0, DevicePlan(1, 2, "RING", False)),
        (7.5, 0, DevicePlan(7, 8, "RING", False)),
        (4, 1, DevicePlan(4, 5, "NCCL", True)),
        (4, 0.5, DevicePlan(4, 5, "NCCL", True)),
    ],
)
def test_threads_follow_the_cpu_share_and_collectives_the_device(cpus, gpus, expected):
    assert plan_devices(ClusterConfig(cpus_per_worker=cpus, gpus_per_worker=gpus)) == expected


def test_a_cluster_that_holds_the_workers_is_accepted():
    check_capacity(ClusterConfig(workers=2, cpus_per_worker=1), {"CPU": 2.0})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"workers": 3}, "needs 3 CPU; the cluster has 2"),
        ({"workers": 2, "cpus_per_worker": 1.5}, "needs 3 CPU; the cluster has 2"),
        ({"gpus_per_worker": 1}, "needs 1 GPU; the cluster has 0"),
    ],
)
def test_a_cluster_too_small_is_refused_with_both_figures(settings, says):
    with pytest.raises(ClusterError, match=says):
        check_capacity(ClusterConfig(**settings), {"CPU": 2.0})


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.socket() as taken:
        # Bound but not listening: connections are refused, and nobody else takes the port.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match=address), connect(ClusterConfig(address=address)):
            pytest.fail("it connected")


def test_a_port_for_metrics_that_is_taken_is_refused_before_ray_starts():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ClusterError, match=f"track.metrics_port is {port}: Address already in use") as error,
            connect(ClusterConfig(workers=1), port),
        ):
            pytest.fail("it started")
    assert error.value.args[1] == "Choose another port, or leave it out for a free one."


def test_what_starts_a_group_of_workers_loads_no_tensorflow():
    # Ray's controller unpickles some, the driver imports all; Ray's TensorflowTrainer would cost it five seconds.
    names = ("backend", "monitor", "worker", "group", "run", "sweep.run", "verify")
    imports = [*(f"import rayft.distributed.{name}" for name in names), "import rayft.learn.parity_trace"]
    code = f"import sys; {'; '.join(imports)}; print(sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'rayft.distributed.worker'" in done.stdout
    assert "'tensorflow'" not in done.stdout


def test_tensorflow_is_imported_without_looking_for_garbage():
    script = (
        "import gc\n"
        "from rayft.config import ClusterConfig\n"
        "from rayft.distributed.devices import plan_devices, set_up_tensorflow\n"
        "collections = sum(each['collections'] for each in gc.get_stats())\n"
        "set_up_tensorflow(plan_devices(ClusterConfig()))\n"
        "print(sum(each['collections'] for each in gc.get_stats()) - collections, gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    collections, is_enabled = done.stdout.split()
    # A few may come before and after.
    assert int(collections) <= 3
    assert is_enabled == "True"


# Blocks of a step's tensors, taken and freed by two threads as TensorFlow's are; prints the pages the system filled.
_STEPS = """
import ctypes, resource, threading
# PR_SET_THP_DISABLE: with pages of 2 MB, fewer would be counted.
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
def step():
    blocks = [bytes([1]) * (megabytes << 20) for megabytes in (3, 5, 9, 11, 13, 15)]
def steps(count):
    def run():
        for _ in range(count):
            step()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
steps(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are those of glibc")
def test_what_a_step_frees_is_kept_for_the_next_one():
    pages = 40 * 56 * 256  # 40 steps of 56 MB, in pages of 4 kB
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    filled = {}
    for name, more in {"plain": {}, "ours": allocator_environment(2)}.items():
        done = subprocess.run(
            [sys.executable, "-c", _STEPS], env=plain | more, capture_output=True, text=True, check=True
        )
        filled[name] = int(done.stdout)
    assert filled["ours"] < pages / 20 < pages / 4 < filled["plain"]


@pytest.mark.parametrize(("cpus", "arenas"), [(1, "1"), (2, "1"), (15, "1"), (16, "2"), (64, "8")])
def test_threads_of_eight_cpus_share_a_heap(cpus, arenas):
    assert allocator_environment(cpus)["MALLOC_ARENA_MAX"] == arenas


def test_variables_are_inherited_within_the_block_alone_and_the_users_own_win(monkeypatch):
    monkeypatch.setenv("RAYFT_TEST_SET", "theirs")
    monkeypatch.delenv("RAYFT_TEST_NEW", raising=False)
    with inherited_environment({"RAYFT_TEST_SET": "ours", "RAYFT_TEST_NEW": "ours"}):
        assert (os.environ["RAYFT_TEST_SET"], os.environ["RAYFT_TEST_NEW"]) == ("theirs", "ours")
    assert os.environ["RAYFT_TEST_SET"] == "theirs"
    assert "RAYFT_TEST_NEW" not in os.environ
