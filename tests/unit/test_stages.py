"""The registry of stages: what it says must fit together, since every tool reads it and none checks it."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from rpg.config.experiment import Experiment
from rpg.stages import (
    BASE_OF_TASK_CODES,
    IMAGES,
    OPTIONAL,
    STAGES,
    SUMMARIES,
    TASK_CODES,
    TEXT,
    TIMED,
    Stage,
    Summary,
    artifact,
    before,
    covered_by,
    decides,
)

ORDER = list(STAGES)
ZOO = {"task", "base", "zoo"}
RPG = ZOO | {"tokens", "model", "diffusion", "train"}
SAMPLE = RPG | {"tune", "hypernetwork", "sample"}


def all_reads(stage: Stage) -> list[str]:
    return [*stage.reads, *(name for names in stage.reads_if.values() for name in names)]


def test_names_and_order() -> None:
    assert ORDER == [
        "base", "zoo", "collect", "tokens", "train", "tune", "hypernetwork", "sample", "score", "novelty",
        "prompts", "wanted",
    ]  # fmt: skip
    assert OPTIONAL == ("base", "tune", "hypernetwork", "prompts", "wanted")
    assert TIMED == ("train", "tune", "hypernetwork", "sample")
    assert list(SUMMARIES) == ["ablation", "joint", "ablations", "peers", "tables", "report"]


def test_names_are_their_keys() -> None:
    for table in (STAGES, SUMMARIES):
        for name, step in table.items():
            assert step.name == name
            assert step.description.endswith(".")
    assert not STAGES.keys() & SUMMARIES.keys()


@pytest.mark.parametrize(
    ("stage", "blocks"),
    [
        ("base", {"task", "base"}),
        ("zoo", ZOO),
        ("collect", ZOO),
        ("tokens", ZOO | {"tokens"}),
        ("train", RPG),
        ("tune", RPG | {"tune"}),
        ("hypernetwork", ZOO | {"tokens", "model", "diffusion", "hypernetwork"}),
        ("sample", SAMPLE),
        ("score", SAMPLE),
        ("novelty", SAMPLE | {"novelty"}),
        ("prompts", SAMPLE | {"prompts"}),
        ("wanted", RPG | {"tune", "sample", "wanted"}),
    ],
)
def test_blocks_that_decide_what_a_stage_makes(stage: str, blocks: set[str]) -> None:
    assert decides(stage) == blocks


def test_blocks_are_those_of_an_experiment() -> None:
    fields = set(Experiment.model_fields)
    for stage in STAGES.values():
        assert set(stage.blocks) <= fields
        assert not stage.optional or stage.name in stage.blocks


@pytest.mark.parametrize("stage", STAGES.values(), ids=ORDER)
def test_artifacts_that_are_read_exist_and_are_of_earlier_stages(stage: Stage) -> None:
    for name in all_reads(stage):
        maker, _, key = name.partition(".")
        assert key in STAGES[maker].writes
        assert artifact(name) == STAGES[maker].writes[key]
        assert ORDER.index(maker) < ORDER.index(stage.name)
    assert set(before(stage.name)) == {name.partition(".")[0] for name in all_reads(stage)}


@pytest.mark.parametrize("stage", STAGES.values(), ids=ORDER)
def test_an_optional_stage_is_read_only_where_it_is(stage: Stage) -> None:
    assert not {name.partition(".")[0] for name in stage.reads} & set(OPTIONAL)
    for condition, names in stage.reads_if.items():
        assert condition in (*OPTIONAL, TASK_CODES, BASE_OF_TASK_CODES, IMAGES, TEXT)
        if condition in OPTIONAL:
            assert {name.partition(".")[0] for name in names} == {condition}


def test_paths_of_artifacts_are_unique() -> None:
    counted = Counter(path for stage in STAGES.values() for path in stage.writes.values())
    assert {path for path, count in counted.items() if count > 1} == set()
    assert all(not Path(path).is_absolute() and ".." not in Path(path).parts for path in counted)


@pytest.mark.parametrize("stage", STAGES.values(), ids=ORDER)
def test_facts_of_a_stage_fit_each_other(stage: Stage) -> None:
    assert set(stage.metrics) <= set(stage.writes.values())
    assert ("seconds" in stage.writes) == (stage.name in TIMED)
    assert stage.lists is None or stage.lists[0] in stage.writes
    assert covered_by(stage.name) in STAGES
    # What DVC records covers each artifact but the metrics.
    for path in stage.writes.values():
        assert path in stage.metrics or any(Path(path).is_relative_to(out) for out in stage.recorded)


@pytest.mark.parametrize("step", [*STAGES.values(), *SUMMARIES.values()], ids=[*STAGES, *SUMMARIES])
def test_code_of_a_step_exists_and_is_not_the_command_line(step: Stage | Summary) -> None:
    for entry in step.code:
        assert (ROOT / entry).exists(), entry
        assert entry != "rpg/cli.py"


def test_collect_belongs_to_the_zoo_in_the_ledger() -> None:
    assert {name: covered_by(name) for name in STAGES if covered_by(name) != name} == {"collect": "zoo"}


def test_module_is_the_one_that_the_verb_imports() -> None:
    verbs = ast.parse((ROOT / "rpg/cli.py").read_text())
    imported = {
        function.name: {node.module for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
        for function in verbs.body
        if isinstance(function, ast.FunctionDef)
    }
    for name, stage in STAGES.items():
        assert stage.module in imported[name]
        path = stage.module.replace(".", "/")
        assert any(f"{path}.py".startswith(code) for code in stage.code), name
