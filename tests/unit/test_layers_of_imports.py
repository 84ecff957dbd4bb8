import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rayft"

# The layer of a module is that of its longest prefix here. A module imports its own layer or those below.
PLAIN, TENSORFLOW, RAY, COMMAND = range(4)
LAYERS = {
    "rayft": PLAIN,
    "rayft.config": PLAIN,
    "rayft.evaluation": PLAIN,
    "rayft.report": PLAIN,
    "rayft.tracking": PLAIN,
    "rayft.observe": PLAIN,
    "rayft.data": TENSORFLOW,
    "rayft.model": TENSORFLOW,
    "rayft.learn": TENSORFLOW,
    "rayft.package": TENSORFLOW,
    "rayft.sweep": PLAIN,
    "rayft.prefix": TENSORFLOW,
    "rayft.export": TENSORFLOW,
    "rayft.package.archive": PLAIN,
    "rayft.package.card": PLAIN,
    "rayft.package.golden": PLAIN,
    "rayft.package.model_file": PLAIN,
    "rayft.package.record": PLAIN,
    "rayft.package.seal": PLAIN,
    "rayft.registry": PLAIN,
    "rayft.serve.answers": PLAIN,
    "rayft.serve.batch": TENSORFLOW,
    "rayft.serve.contract": PLAIN,
    "rayft.serve.engine": TENSORFLOW,
    "rayft.serve.engine.ladder": PLAIN,
    "rayft.serve.engine.metrics": PLAIN,
    "rayft.serve.engine.observe": PLAIN,
    "rayft.serve.engine.share": PLAIN,
    "rayft.serve.engine.source": PLAIN,
    "rayft.serve.evaluate": TENSORFLOW,
    "rayft.serve.predictor": TENSORFLOW,
    "rayft.serve.wire": PLAIN,
    "rayft.serve.http": PLAIN,
    "rayft.serve.grpc": PLAIN,
    "rayft.serve.page": PLAIN,
    "rayft.serve.keys": PLAIN,
    "rayft.serve.listen": PLAIN,
    "rayft.driver": PLAIN,
    "rayft.jobs": PLAIN,
    "rayft.distributed": RAY,
    "rayft.serve.app": RAY,
    "rayft.serve.bulletin": RAY,
    "rayft.serve.declare": PLAIN,
    "rayft.serve.endpoint": RAY,
    "rayft.serve.owner": RAY,
    "rayft.serve.replica": RAY,
    "rayft.serve.scale": PLAIN,
    "rayft.api": RAY,
    "rayft.cli": COMMAND,
    "rayft.__main__": COMMAND,
}
NEEDS = {"tensorflow": TENSORFLOW, "keras": TENSORFLOW, "tensorboard": TENSORFLOW, "ray": RAY}
HEAVY = {*NEEDS, "numpy", "pyarrow", "pandas", "pydantic", "PIL", "yaml", "rich"}


def layer_of(module: str) -> int:
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next(LAYERS[prefix] for prefix in prefixes if prefix in LAYERS)


def imports(source: str, *, inside_functions: bool = True) -> set[str]:
    """All modules that a source imports, type-checking blocks left out."""
    found = set()
    nodes = list(ast.parse(source).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            # `from rayft import cli` names a module, `from rayft.cli import main` a function of one.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            nodes += node.orelse
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes += ast.iter_child_nodes(node)
    return found


def violations(module: str, source: str) -> list[str]:
    layer = layer_of(module)
    above = []
    for name in imports(source):
        needed = layer_of(name) if name.split(".")[0] == "rayft" else NEEDS.get(name.split(".")[0], PLAIN)
        if needed > layer:
            above.append(f"{module} imports {name}")
    return above


def modules() -> dict[str, str]:
    paths = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text() for path, parts in paths.items()}


def test_layers_import_downwards_only():
    assert [line for module, source in modules().items() for line in violations(module, source)] == []


def test_every_folder_of_the_package_has_a_layer_of_its_own():
    folders = {f"rayft.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")} - {"rayft.serve"}
    assert folders <= set(LAYERS)


@pytest.mark.parametrize(
    "module",
    ["rayft", "rayft.__main__", "rayft.errors", "rayft.serve", *(name for name in modules() if "rayft.cli" in name)],
)
def test_modules_on_the_way_to_help_import_nothing_heavy_at_their_top(module):
    top = imports(modules()[module], inside_functions=False)
    assert {name.split(".")[0] for name in top} & HEAVY == set()
    assert all(name.split(".")[1:2] in ([], ["errors"], ["quiet"], ["cli"]) for name in top if name.startswith("rayft"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rayft.config", "import tensorflow as tf"),
        ("rayft.storage", "def f():\n    from keras import ops"),
        ("rayft.learn.loop", "import ray.train"),
        ("rayft.data.source", "from rayft import cli"),
        ("rayft.model.network", "from rayft.distributed.run import train"),
        ("rayft.serve.predictor", "if True:\n    from rayft.serve.app import build"),
        ("rayft.distributed.run", "from rayft.cli import main"),
    ],
)
def test_an_upward_import_is_found(module, source):
    assert violations(module, source)
