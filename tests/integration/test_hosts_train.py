"""A run on three hosts of their own, with everything that they share on S3, gives the numbers of one host."""

import numpy as np
import pytest
from host_cluster import cluster, pictures
from hosts import PATIENCE_S, why_not
from running import steps_log

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HOSTS = ("head", "one", "two")
CONFIG = """
name: {name}
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 18, image_size: 16, augment: {{horizontal_flip: true}}}}
model: {{backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}}
freeze: {{depth: 0}}
train: {{epochs: 3, log_every_steps: 1, step: "own_steps:watched"}}
cluster: {{address: '{address}', workers: 3, cpus_per_worker: {cpus}}}
"""


@pytest.fixture(scope="module")
def hosts():
    # More CPUs than there are: what counts is where workers fit.
    with cluster(HOSTS, cpus=3) as made:
        made.write("data/pictures.parquet", pictures(120))
        yield made


def train(hosts, name, *, cpus):
    """Train from the head; returns the ranks that took steps on each host."""
    for host in hosts.hosts:
        host.file("steps.log").unlink(missing_ok=True)
    places = {"storage": hosts.bucket.uri(""), "source": hosts.bucket.uri("data/pictures.parquet")}
    text = CONFIG.format(name=name, address=hosts.address, cpus=cpus, **places)
    process = hosts.rayft(hosts.head, "train", text, out=f"{name}.txt")
    assert process.wait(PATIENCE_S) == 0, hosts.head.file(f"{name}.txt").read_text()
    return {host.name: {rank for _, rank, _, _ in steps_log(host.file("."))} for host in hosts.hosts}


def test_hosts_of_their_own_give_the_numbers_of_one_host_bit_for_bit(hosts):
    # Three workers of one CPU fit on a host of three; of those that ask for more, one does. Both use one thread.
    together = train(hosts, "together", cpus=1)
    assert sorted(len(ranks) for ranks in together.values()) == [0, 0, 3], together
    apart = train(hosts, "apart", cpus=1.6)
    assert [len(ranks) for ranks in apart.values()] == [1, 1, 1], apart
    assert set().union(*apart.values()) == {0, 1, 2}
    assert len(hosts.trace("together")) > 15
    assert hosts.trace("apart") == hosts.trace("together")
    one, other = hosts.state("together"), hosts.state("apart")
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values, strict=True)
