"""TLS between the nodes of a Ray cluster: what it protects, whom it keeps out, and what it leaves in the open."""

import contextlib
import re
import socket
import subprocess

import pytest
from host_cluster import GCS_PORT, cluster, pictures
from hosts import PATIENCE_S, why_not

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

CONFIG = """
name: secure
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 16, image_size: 16}}
model: {{backbone: none, weights: none, pooling: flatten, hidden: [16]}}
freeze: {{depth: 0}}
train: {{epochs: 1, step: "own_steps:gated"}}
cluster: {{address: '{address}', workers: 2, cpus_per_worker: 1}}
"""
# The beginning of a conversation in HTTP/2, with no settings; its answer begins with a frame of settings, type 4.
HELLO, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_authority(folder):
    words = "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"
    openssl(folder, *words.split())


def certify(folder, host):
    """Give a host its certificate, which names its addresses, and that of the authority."""
    openssl(folder, *f"req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN={host.name}".split())
    (folder / "names").write_text(f"subjectAltName=IP:{host.address},IP:127.0.0.1,DNS:{host.name},DNS:localhost\n")
    sign = "x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -out crt -days 2 -extfile names"
    openssl(folder, *sign.split())
    for name, source in (("tls.key", "key"), ("tls.crt", "crt"), ("ca.crt", "ca.crt")):
        place = host.file(name)
        place.touch(0o600)
        place.write_bytes((folder / source).read_bytes())
    names = {"SERVER_KEY": "tls.key", "SERVER_CERT": "tls.crt", "CA_CERT": "ca.crt"}
    files = {f"RAY_TLS_{name}": str(host.home / file) for name, file in names.items()}
    host.variables = {**host.variables, "RAY_USE_TLS": "1", **files}


def new_stranger(made, name):
    """A host that soon gives up."""
    host = made.new_host(name)
    host.variables = {
        **host.variables,
        "RAY_gcs_server_port_wait_time_s": "2",
        "RAY_gcs_server_request_timeout_seconds": "5",
    }
    return host


def ports_of(host, title):
    """Return the ports, on addresses that others reach, of the processes of that title."""
    pids = {int(line.split()[0]) for line in host.run("ps", "-eo", "pid,args").splitlines() if title in line}
    lines = [line for line in host.run("ss", "-Hltnp").splitlines() if "127.0.0.1:" not in line.split()[3]]
    found = [(line, {int(pid) for pid in re.findall(r"pid=(\d+)", line)}) for line in lines]
    return sorted({int(line.split()[3].rpartition(":")[2]) for line, owners in found if owners & pids})


def speaks_plainly(stranger, host, port):
    """Whether a port answers HTTP/2, which gRPC is, to a stranger that shows no certificate and hides nothing."""

    def hear():
        with contextlib.suppress(OSError), socket.create_connection((host.address, port), timeout=5) as connection:
            connection.settimeout(5)
            connection.sendall(HELLO)
            return connection.recv(9)[3:4] == bytes([SETTINGS])
        return False

    return stranger.in_its_network(hear)


def test_a_cluster_with_tls_trains_and_lets_nobody_in_without_a_certificate(tmp_path):
    make_authority(tmp_path)
    with cluster(("head", "one"), start=False) as made:
        head, one = made.net.hosts[1:]
        for host in (head, one):
            certify(tmp_path, host)
        made.join(head, one)
        made.write("data/pictures.parquet", pictures(60))
        places = {"storage": made.bucket.uri(""), "source": made.bucket.uri("data/pictures.parquet")}
        process = made.rayft(head, "train", CONFIG.format(address=made.address, **places))
        made.wait_at_gate(0, process)
        # It has the token, and no certificate.
        stranger = new_stranger(made, "stranger")
        ports = ports_of(one, "ray::RayTrainWorker")
        assert len(ports) >= 2
        assert not speaks_plainly(stranger, head, GCS_PORT)
        # docs/deploy.md says so: the sum of the gradients is TensorFlow's own, which has no TLS.
        assert [speaks_plainly(stranger, one, port) for port in ports].count(True) == 1
        made.open_gate(0)
        assert process.wait(PATIENCE_S) == 0, head.file("out.txt").read_text()
        assert made.result("secure")["num_workers"] == 2

        made.join(stranger, check=False)
        # Another authority's is no better.
        other = tmp_path / "other"
        other.mkdir()
        make_authority(other)
        forger = new_stranger(made, "forger")
        certify(other, forger)
        made.join(forger, check=False)
        assert made.hosts == [head, one]
        code = (
            f"import ray; ray.init('{made.address}', log_to_driver=False); "
            "print(sorted(node['NodeManagerAddress'] for node in ray.nodes()))"
        )
        assert head.run("python", "-c", code).splitlines()[-1] == str([head.address, one.address])
