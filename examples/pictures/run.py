"""Show what a finished run of this example knows: its accuracy, and one picture's class."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

import rayft


def main(run: Path) -> None:
    """Print the accuracy of the run, and the answer to one picture that it was not trained on."""
    result = json.loads((run / "result.json").read_text())
    print(f"test accuracy  {result['final']['test_accuracy']:.3f}  (always the largest class: 0.18)")

    table = pq.read_table("examples/data/pictures.parquet", filters=[("split", "=", "test")])
    picture = table.slice(0, 1).to_pylist()[0]
    answer = rayft.load(run).predict([picture["image"]])[0]
    print(f"one prediction {answer.label} ({answer.probability:.2f}); it shows: {picture['label_name']}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pictures"))
