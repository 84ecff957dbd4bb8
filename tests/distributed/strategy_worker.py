"""One TensorFlow worker that trains every case of test_strategies.py: ``python strategy_worker.py SETTING``."""

import json
import os
import pickle
import sys
import time
from pathlib import Path

PATIENCE_S = 120


class Shared:
    """Gives every rank the chief's values through files."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank, self._count = folder, rank, 0

    def broadcast(self, value):
        self._count += 1
        where = self._folder / f"{self._count}.pickle"
        if self._rank == 0:
            partial = where.with_suffix(".partial")
            partial.write_bytes(pickle.dumps(value))
            partial.rename(where)
            return value
        end = time.monotonic() + PATIENCE_S
        while not where.exists():
            assert time.monotonic() < end, "the chief is gone"
            time.sleep(0.005)
        return pickle.loads(where.read_bytes())


def main() -> None:
    """Train all cases on this rank's share; the chief writes their traces."""
    setting = json.loads(sys.argv[1])
    rank, addresses, folder = setting["rank"], setting["addresses"], Path(setting["folder"])
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
    from rayft.config import ClusterConfig, parse_config
    from rayft.distributed.devices import plan_devices, prepare_tensorflow

    strategy = prepare_tensorflow(plan_devices(ClusterConfig()))

    from rayft.data.dataset import open_dataset
    from rayft.learn.batches import Batches
    from rayft.learn.parity import run_case, subset
    from rayft.learn.place import Place

    place = Place(rank, len(addresses), Shared(folder, rank).broadcast, lambda: None)
    batches: dict[str, Batches] = {}
    traces, seconds = {}, {}
    for name, tree in setting["cases"].items():
        config = parse_config(tree)
        started = time.process_time()
        # Tracing a pipeline takes longer than such a run.
        key = repr((config.data, config.seed, config.train.epochs, config.train.accumulate_steps))
        if key not in batches:
            batches[key] = Batches(subset(open_dataset(config)), config, (setting["side"],) * 2, place)
        traces[name] = run_case(config, batches[key].dataset, place, strategy, batches[key])
        seconds[name] = round(time.process_time() - started, 1)
        if rank == 0:
            (folder / "traces.pickle").write_bytes(pickle.dumps(traces))
    print(f"rank {rank} of {len(addresses)}: {time.process_time():.0f} s of CPU, {seconds}")


if __name__ == "__main__":
    main()
