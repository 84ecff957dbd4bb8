"""Alerts and dashboards ask for what is exported: by an endpoint, and under the names that a run exports."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.check.__main__ import main
from deploy.check.kustomize import read_documents
from deploy.check.queries import exported, problems_of, queries_of
from rayft.observe.names import CACHE, SERVING, SWEEP, TRAINING, scraped_name

DEPLOY = Path(__file__).parents[2] / "deploy"
MONITORING = DEPLOY / "monitoring"
FILES = [MONITORING / "alerts.yml", *sorted(MONITORING.glob("*.json"))]
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


def test_the_table_is_what_an_endpoint_exports(tmp_path):
    # tests/integration/test_observe.py compares the rest with what a run and a sweep export.
    done = subprocess.run([sys.executable, "-c", EXPORT, str(tmp_path)], capture_output=True, text=True, check=True)
    real = {name: set(labels) for name, labels in json.loads(done.stdout).items()}
    assert real == {name: labels for name, labels in exported().items() if name.startswith("rayft_serve_")}
    assert len(real) > len(SERVING)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_what_is_exported(query):
    assert problems_of(query, exported()) == []
    renamed = query.replace("rayft_", "raft_")
    assert renamed != query
    assert any("nothing exports" in problem for problem in problems_of(renamed, exported()))


def test_a_label_that_is_not_there_and_a_query_that_does_not_parse_are_found():
    assert "versoin" in problems_of("sum by (versoin) (rayft_serve_loaded_replicas)", exported())[0]
    assert "code" in problems_of('rate(rayft_serve_responses_total{code="500"}[5m])', exported())[0]
    assert "rank" in problems_of('ray_rayft_train_loss{rank="0"}', exported())[0]
    assert "no PromQL" in problems_of("sum(rayft_serve_replicas", exported())[0]


def test_figures_of_training_sweeps_and_caches_are_shown_but_for_those_that_others_stand_for():
    asked = " ".join(query for file in FILES for _, query in queries_of(file))
    # Examples a second, steps, and what a run tells of its cache.
    spare = {"train_examples_total", "train_epochs_done", "train_epochs_planned", "cache_build_seconds"}
    names = {scraped_name(name) for name in TRAINING | CACHE | SWEEP}
    assert {name for name in names if name not in asked} == {f"ray_rayft_{name}" for name in spare}


def test_the_command_names_file_query_and_name_of_a_metric_that_is_gone(tmp_path, capsys):
    files = [str(file) for file in FILES]
    assert main(files) == 0
    assert capsys.readouterr().err == f"0 kustomizations, {len(files)} files of queries, 0 findings\n"
    for file in FILES:
        (tmp_path / file.name).write_text(file.read_text().replace("cache_misses", "cache_mises"))
    assert main([str(tmp_path / file.name) for file in FILES]) == 2
    told = capsys.readouterr().out
    assert f"{tmp_path}/alerts.yml: RayftCacheComputedAgain: asks for 'ray_rayft_cache_mises_total'" in told
    assert f"{tmp_path}/training.json: Prefix caches, found and computed: asks for 'ray_rayft_cache_mises" in told
    (tmp_path / "alerts.yml").write_text("- a\n- list\n")
    assert main([str(tmp_path / "alerts.yml")]) == 2
    assert "is no rule file of Prometheus" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is not there.")
def test_alerts_fire_in_the_cases_that_stand_beside_them_and_only_there(tmp_path):
    for name in ("alerts.yml", "alerts.test.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    command = ["promtool", "test", "rules", str(tmp_path / "alerts.test.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = (tmp_path / "alerts.yml").read_text()
    for right, wrong in (("> 0.3\n", "> 0.5\n"), ("== 0\n", "== 1\n"), ("offset 1d", "offset 1m"), (">= 2", ">= 1")):
        assert right in rules
        (tmp_path / "alerts.yml").write_text(rules.replace(right, wrong))
        assert subprocess.run(command, capture_output=True).returncode != 0, right


def test_prometheus_scrapes_ports_that_the_pods_have_and_their_policy_opens():
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    kept = {job["relabel_configs"][0]["regex"].rpartition(";")[2] for job in jobs}
    text = "".join(path.read_text() for path in (DEPLOY / "kubernetes" / "base").rglob("*.yaml"))
    ports = {name: int(port) for name, port in re.findall(r"name: ([\w-]+), containerPort: (\d+)", text)}
    assert kept == {"serve", "metrics"}
    policies = read_documents(DEPLOY / "kubernetes" / "base" / "common" / "networkpolicies.yaml")
    (policy,) = (each for each in policies if each["metadata"]["name"] == "rayft-prometheus")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == {ports[name] for name in kept}
