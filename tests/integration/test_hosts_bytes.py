"""What a step sends over the network is what trains, times the factor of the ring."""

import time

import pytest
from host_cluster import cluster, pictures
from hosts import PATIENCE_S, why_not
from own_steps import GATE
from wide_backbone import HEAD_WIDTH, TRAINABLE_BYTES, write_backbone

pytestmark = [pytest.mark.full, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

# 102 steps an epoch, and an epoch for each depth: between these gates lies no end of one.
GATES = {3: 0, 2: 2 * GATE, 1: 4 * GATE}
STILL_S = 0.3
CONFIG = """
name: wide
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 6, image_size: 16}}
model: {{backbone: wide.keras, pooling: avg, hidden: [{width}], dropout: 0}}
freeze: {{schedule: [{{epoch: 0, depth: 3}}, {{epoch: 1, depth: 2}}, {{epoch: 2, depth: 1}}]}}
prefix_cache: {{mode: "off"}}
train: {{epochs: 3, step: "own_steps:gated"}}
cluster: {{address: '{address}', workers: 3, cpus_per_worker: 1.6}}
"""


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Bytes a step that each host sent, by freeze depth and host."""
    backbone = tmp_path_factory.mktemp("backbone") / "wide.keras"
    write_backbone(backbone)
    with cluster(("head", "one", "two"), cpus=2, files={"wide.keras": backbone.read_bytes()}) as hosts:
        hosts.write("data/pictures.parquet", pictures(720))
        places = {"storage": hosts.bucket.uri(""), "source": hosts.bucket.uri("data/pictures.parquet")}
        text = CONFIG.format(address=hosts.address, width=HEAD_WIDTH, **places)
        process = hosts.rayft(hosts.head, "train", text)
        found, counted = {}, {}
        try:
            for gate in range(0, 6 * GATE, GATE):
                hosts.wait_at_gate(gate, process)
                time.sleep(STILL_S)
                counted[gate] = {host.name: host.counters()[1] for host in hosts.hosts}
                hosts.open_gate(gate)
            assert process.wait(PATIENCE_S) == 0
        finally:
            print(hosts.head.file("out.txt").read_text())
        for depth, gate in GATES.items():
            start, end = counted[gate], counted[gate + GATE]
            found[depth] = {name: (end[name] - start[name]) / GATE for name in start}
        yield found


@pytest.mark.parametrize("depth", GATES)
def test_a_step_sends_the_bytes_of_what_trains_times_the_factor_of_the_ring(depth, sent):
    expected = TRAINABLE_BYTES[depth] * 2 * (3 - 1) / 3
    for host, each in sent[depth].items():
        print(f"depth {depth}, {host}: {each:,.0f} bytes a step, {expected:,.0f} expected: {each / expected:.3f}")
    for each in sent[depth].values():
        assert 1 <= each / expected < 1.1
