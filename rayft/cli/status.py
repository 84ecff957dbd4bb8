"""The command `rayft status`."""

from __future__ import annotations

import json
import time

from rayft.cli.app import AddressOption, JsonOption, app


@app.command()
def status(address: AddressOption, as_json: JsonOption = False) -> None:
    """Say what runs on a cluster: where, how far, how fast."""
    from rayft.cli.jobs import connected
    from rayft.jobs.watch import standing

    cluster = connected(address)
    nodes = cluster.nodes()
    addresses = {node.id: node.ip for node in nodes}
    jobs = cluster.jobs()
    now = [standing(cluster, job, addresses) for job in jobs if not job.is_over]
    amounts = {name: sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    if as_json:
        facts = {"address": cluster.url, "nodes": len(nodes), **{name.lower() + "s": amounts[name] for name in amounts}}
        print(json.dumps({"cluster": facts, "jobs": [one.as_dict() for one in now]}))
        return
    print(f"{cluster.url}: {len(nodes)} nodes, {amounts['CPU']:g} CPU, {amounts['GPU']:g} GPU")
    for one in now:
        print(one.in_words(time.time()))
    if not now:
        print(f"nothing runs; {len(jobs)} jobs have ended (rayft jobs list)")
