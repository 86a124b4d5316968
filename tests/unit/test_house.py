"""The rules of the package: who may ask for a task's type, sizes, imports that flow down, names, and tests that mirror.

docs/design.md has the rules.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
from conftest import ROOT

PACKAGE = ROOT / "rpg"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Module below rpg/ → the test, below tests/, that covers it. All others have a test of their own name.
COVERED_BY = {
    "blocks.py": "unit/config/test_params.py",
    "config/experiment.py": "unit/config/test_params.py",
    "config/loading.py": "unit/config/test_params.py",
    "config/model.py": "unit/config/test_params.py",
    "config/training.py": "unit/config/test_params.py",
    "data/images.py": "unit/data/test_digits.py",
    "data/pictures.py": "unit/tasks/fine_tuning/test_imagenet.py",
    "demo/pad.py": "unit/demo/test_serve.py",
    "demo/page.py": "unit/demo/test_serve.py",
    "demo/prompt_form.py": "unit/demo/test_serve.py",
    "evaluation/results.py": "unit/test_fuzz.py",
    "evaluation/verification.py": "unit/evaluation/test_alignment.py",
    "generator/manifest.py": "unit/test_fuzz.py",
    "model/backbones/base.py": "unit/model/backbones/test_residual.py",
    "model/backbones/mixers.py": "unit/model/backbones/test_residual.py",
    "model/backbones/paper.py": "unit/model/test_paper.py",
    "model/batchnorm.py": "unit/training/test_trainer.py",
    "model/denoisers/base.py": "unit/model/denoisers/test_denoisers.py",
    "model/denoisers/convolution.py": "unit/model/denoisers/test_denoisers.py",
    "model/denoisers/mlp.py": "unit/model/denoisers/test_denoisers.py",
    "model/denoisers/none.py": "unit/model/denoisers/test_denoisers.py",
    "model/published_names.py": "unit/training/test_published.py",
    "peers/build.py": "unit/peer_training/test_train.py",
    "peers/loading.py": "unit/peer_training/test_train.py",
    "init/request.py": "unit/init/test_command.py",
    "model/recomputing.py": "unit/training/test_trainer.py",
    "pipeline/commands.py": "integration/test_ledger.py",
    "pipeline/dvc.py": "integration/test_ledger.py",
    "pipeline/ledger.py": "integration/test_ledger.py",
    "pipeline/step_cost.py": "unit/pipeline/test_plan.py",
    "reports/ablations.py": "unit/reports/test_ablation.py",
    "reports/artifacts.py": "unit/test_fuzz.py",
    "reports/html.py": "integration/test_report.py",
    "reports/published.py": "unit/reports/test_tables.py",
    "tasks/base.py": "unit/tasks/test_loading.py",
    "tasks/classification/networks.py": "unit/tasks/classification/test_task.py",
    "tasks/commonsense/language.py": "unit/tasks/commonsense/test_task.py",
    "tasks/commonsense/training.py": "unit/tasks/commonsense/test_task.py",
    "tasks/commonsense/export.py": "unit/tasks/commonsense/test_task.py",
    "tasks/fine_tuning/pictures.py": "unit/data/test_cifar10.py",
    "tasks/openmmlab/vitdet.py": "unit/tasks/detection/test_task.py",
    "pipeline/usage.py": "unit/pipeline/test_forkserver.py",
    "tokenizer/manifest.py": "unit/test_fuzz.py",
    "utils/artifacts.py": "unit/test_fuzz.py",
    "utils/hub.py": "unit/pipeline/test_prerequisites.py",
}


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def below(module: Path) -> str:
    """The path of a module below rpg/."""
    return module.relative_to(PACKAGE).as_posix()


def classes(*modules: Path) -> dict[str, list[str]]:
    """Name of a top-level class → the modules that define it."""
    found = defaultdict(list)
    for module in modules:
        for node in tree_of(module).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(below(module))
    return dict(found)


def names_in(node: ast.AST) -> set[str]:
    """The names in an expression, and the last parts of dotted ones."""
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return found | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def test_only_tasks_ask_for_the_type_of_a_task() -> None:
    tasks = classes(*(module for module in MODULES if below(module).startswith("tasks/")))
    assert {"TaskConfig", "Classification", "ClassificationZoo", "PretrainedBase"} <= tasks.keys()
    for module in MODULES:
        if below(module).startswith("tasks/"):
            continue
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                assert not names_in(node.args[1]) & tasks.keys(), f"{below(module)}:{node.lineno}"


@pytest.mark.parametrize(
    ("file", "most"),
    [
        # The command line has a function for each verb.
        *((module.relative_to(ROOT).as_posix(), 600 if module.name == "cli.py" else 500) for module in MODULES),
        ("params.yaml", 1350),
        ("README.md", 200),
        ("dvc.lock", 7000),
    ],
)
def test_files_stay_short(file: str, most: int) -> None:
    assert (ROOT / file).read_bytes().count(b"\n") <= most


def when_run(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node but what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in names_in(child.test):
            for part in child.orelse:
                yield part
                yield from when_run(part)
        else:
            yield child
            yield from when_run(child)


def imports(module: Path) -> Iterator[str]:
    """The dotted names in the package that a module imports, those inside its functions included."""
    for node in when_run(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{below(module)}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms() -> nx.DiGraph:
    """Room → the rooms that it imports: the first folders below rpg/, and each module that lies in none."""
    known = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    graph = nx.DiGraph()
    for module in MODULES:
        room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(module):
            parts = name.split(".")
            # The version, of the package itself, is in no room.
            if parts[0] == "rpg" and len(parts) > 1 and parts[1] in known and not room.startswith("__"):
                graph.add_edge(room, parts[1], example=f"{below(module)} imports {name}")
    graph.remove_edges_from([(room, room) for room in graph])
    return graph


def test_imports_flow_down() -> None:
    graph = rooms()
    assert {"cli", "stages", "paths", "blocks", "tasks", "model", "pipeline"} <= set(graph)
    circles = [
        [graph.edges[edge]["example"] for edge in zip(circle, [*circle[1:], circle[0]], strict=True)]
        for circle in nx.simple_cycles(graph)
    ]
    assert circles == []


def test_low_rooms_stay_low() -> None:
    """`tasks` know nothing of RPG, `model` nothing of files and tasks; the registry of stages imports nothing."""
    graph = rooms()
    assert set(graph["tasks"]) <= {"blocks", "data", "utils"}
    assert set(graph["model"]) <= {"blocks", "config", "utils"}
    read = {name for module in MODULES if below(module).startswith("model/") for name in imports(module)}
    assert not any(name.startswith("rpg.utils.files") for name in read)
    assert [list(graph[room]) for room in ("stages", "blocks", "utils")] == [[], [], []]


def test_no_class_name_is_defined_twice() -> None:
    assert {name: found for name, found in classes(*MODULES).items() if len(found) > 1} == {}


def has_public_names(module: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        for node in tree_of(module).body
    )


@pytest.mark.parametrize(
    "module", [below(module) for module in MODULES if not module.name.startswith("__") and has_public_names(module)]
)
def test_every_module_has_a_test(module: str) -> None:
    own = ROOT / "tests/unit" / Path(module).with_name(f"test_{Path(module).name}")
    if module.startswith("tasks/") and Path(module).name == "config.py" and own.with_name("test_task.py").is_file():
        # The tests of a benchmark's networks read its blocks.
        return
    if module in COVERED_BY:
        assert (ROOT / "tests" / COVERED_BY[module]).is_file()
        assert not own.is_file(), f"{module} has a test of its own: leave it out of COVERED_BY"
    else:
        assert own.is_file()


def test_what_is_covered_exists() -> None:
    assert {module for module in COVERED_BY if not (PACKAGE / module).is_file()} == set()


def test_no_test_imports_a_test() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for name in imports_of_tests(path):
            assert not name.split(".")[-1].startswith("test_"), path


def imports_of_tests(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", sorted(ROOT.glob("rpg/tasks/**/__init__.py")), ids=lambda path: path.parent.name)
def test_packages_of_benchmarks_hold_a_docstring_alone(path: Path) -> None:
    """No stage depends on them (rpg.sources.NOT_COMPUTING)."""
    (statement,) = ast.parse(path.read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
