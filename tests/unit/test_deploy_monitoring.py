"""Alerts and dashboard ask for what an endpoint really exports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.check.queries import problems_of, queries_of

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
FILES = [MONITORING / "alerts.yml", MONITORING / "endpoint.json"]
QUERIES = [pytest.param(query, id=name) for file in FILES for name, query in queries_of(file)]
# In a process of its own: prometheus_client settles at its import whether it keeps its metrics in a folder.
EXPORT = """
import json, sys
from pathlib import Path
from rayft.serve.engine.metrics import Metrics, prepare
prepare(Path(sys.argv[1]))
found = {}
for metric in vars(Metrics()).values():
    for family in metric.describe() if hasattr(metric, "describe") else ():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + ending: list(metric._labelnames) for ending in endings}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("metrics"))
    done = subprocess.run([sys.executable, "-c", EXPORT, folder], capture_output=True, text=True, check=True)
    return {name: set(labels) for name, labels in json.loads(done.stdout).items()}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_what_is_exported(query, exported):
    assert problems_of(query, exported) == []
    renamed = query.replace("rayft_serve_", "rayft_serving_")
    assert renamed != query
    assert any("nothing exports" in problem for problem in problems_of(renamed, exported))


def test_a_label_that_is_not_there_and_a_query_that_does_not_parse_are_found(exported):
    assert "versoin" in problems_of("sum by (versoin) (rayft_serve_loaded_replicas)", exported)[0]
    assert "code" in problems_of('rate(rayft_serve_responses_total{code="500"}[5m])', exported)[0]
    assert "no PromQL" in problems_of("sum(rayft_serve_replicas", exported)[0]
