"""dvc.yaml and dvc.lock say what the rules say, and the tests here notice when they do not."""

import hashlib
import json
import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import (
    OTHER_RULES,
    REACHED,
    RULES,
    Job,
    as_stages,
    below,
    jobs,
    ledger,
    make_checkout,
    run_in,
    snakemake,
    stage_of,
    stages,
    under,
)
from conftest import GIVEN, MINIATURE, ROOT, TASKS, write_given, write_tree

from rpg.config.loading import load_params
from rpg.config.resolved import resolved_yaml
from rpg.pipeline.dvc import covered, dvc_yaml, ledger_stages, tracked_blocks
from rpg.stages import OPTIONAL, STAGES

pytestmark = pytest.mark.integration


def rules_of(stage: dict[str, Any]) -> set[str]:
    """The rules that a stage lets Snakemake run."""
    command = stage["cmd"] if isinstance(stage["cmd"], str) else stage["cmd"][-1]
    if command.startswith("python -m rpg config "):
        return {"config"}
    return set(re.search(r"--allowed-rules ((?:\w+ ?)+)", command).group(1).split())


def rules_in(folder: Path) -> set[str]:
    texts = [path.read_text() for path in (folder / "workflow/rules").glob("*.smk")]
    # The rules of the stages are made in a loop over the registry.
    return {*STAGES, *re.findall(r"^rule (\w+):", "".join(texts), re.M)}


def differences(folder: Path, every_job: list[Job]) -> list[str]:
    """Where dvc.yaml in `folder` is not a projection of the rules there, which make `every_job`."""
    tree = stages(folder)
    known = set().union(*(rules_of(stage) for stage in tree.values()))
    lacking = {*OPTIONAL, *OTHER_RULES} - {job.rule for job in every_job}
    found = [f"rule {rule} has no stage" for rule in sorted(rules_in(folder) - known - lacking)]
    reads: dict[str, set[str]] = {name: set() for name in tree}
    writes: dict[str, set[str]] = {name: set() for name in tree}
    owner = {}
    for job in every_job:
        for path in job.writes:
            owners = [(name, out) for name, stage in tree.items() for out in stage["outs"] if under(path, out)]
            if len(owners) != 1:
                found.append(f"{path} lies under {len(owners)} outs")
                continue
            name, out = owners[0]
            owner[path] = name
            if job.rule not in rules_of(tree[name]):
                found.append(f"{path} is an out of {name}, which does not run rule {job.rule}")
            writes[name].add(out)
            reads[name] |= set(job.reads)
    for name, stage in tree.items():
        if name == "config":
            # No rule: Snakemake writes these files whenever a run begins.
            continue
        found += [f"{name}: out {out} is written by no rule" for out in set(stage["outs"]) - writes[name]]
        # What a stage's own rules hand to each other is no dep.
        needed = {path for path in reads[name] if owner.get(path) != name}
        found += [f"{name}: {path} is no dep" for path in needed if not any(under(path, d) for d in stage["deps"])]
        found += [f"{name}: dep {d} is read by no rule" for d in stage["deps"] if not any(under(p, d) for p in needed)]
        kind, _, item = name.partition("@")
        if kind.startswith("ablation-"):
            # Its trials have all of the experiment's keys.
            found += [
                f"{name}: {key} is no param"
                for key in sorted({"ablations.why", *(f"experiments.mini.{block}" for block in MINIATURE)})
                if key not in stage["params"]
            ]
            continue
        rules = rules_of(stage) & STAGES.keys()
        blocks = tracked_blocks([STAGES[rule] for rule in rules])
        keys = {f"experiments.{item}.{key}" for key in blocks} if rules else {"run"}
        found += [f"{name}: {key} is no param" for key in sorted(keys - set(stage["params"]))]
        found += [f"{name}: param {key} reaches no rule" for key in sorted(set(stage["params"]) - keys)]
    return found


@pytest.fixture(scope="module")
def every_job(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """All jobs of the miniature."""
    return jobs(make_checkout(tmp_path_factory.mktemp("jobs")), "--forceall")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    make_checkout(tmp_path)
    (tmp_path / "dvc.yaml").write_text(dvc_yaml(load_params(tmp_path / "params.yaml")))
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_dvc_yaml_is_that_of_params_and_rules() -> None:
    assert (ROOT / "dvc.yaml").read_text() == dvc_yaml(load_params(ROOT / "params.yaml")), "run `rpg ledger write`"


def test_stages_are_the_rules(checkout: Path, every_job: list[Job]) -> None:
    assert differences(checkout, every_job) == []
    assert differences(ROOT, jobs(ROOT, "--forceall")) == []
    params = load_params(ROOT / "params.yaml")
    optional = [layer for name in params.run for layer in OPTIONAL if getattr(params.experiment(name), layer)]
    assert len(optional) == 8
    assert len(stages(ROOT)) == 6 * len(params.run) + len(optional) + 2


def test_a_language_model_has_a_stage_where_its_own_experiment_is_not_run() -> None:
    params = load_params(ROOT / "params.yaml").model_copy(update={"run": ["facts-dora-r16"]})
    tree = yaml.safe_load(dvc_yaml(params))["stages"]
    assert tree["base-commonsense-facts"]["foreach"] == ["facts-dora-r4"]
    deps = tree["zoo-commonsense-facts-facts-dora-r4-base-0000"]["do"]["deps"]
    assert "results/facts-dora-r4/base" in deps
    assert "rpg/tasks/commonsense/task.py" in deps


def test_stages_of_given_zoos_are_the_rules(tmp_path: Path) -> None:
    """Of two with the same functions, too, whose zoos read other folders."""
    make_checkout(tmp_path)
    write_given(tmp_path)
    write_tree(tmp_path, given=GIVEN, other={**GIVEN, "zoo": {**GIVEN["zoo"], "runs": ["zoo/b"]}})
    ledger(tmp_path, "write")
    assert differences(tmp_path, jobs(tmp_path, "--forceall")) == []
    deps = [set(stage["deps"]) for name, stage in stages(tmp_path).items() if name.startswith("zoo-")]
    assert [{dep for dep in found if dep.startswith("zoo/")} for found in deps] == [{"zoo/a", "zoo/b"}, {"zoo/b"}]
    assert all("theirs/data.py" in found for found in deps)


def test_committed_configurations_are_those_of_params() -> None:
    params = load_params(ROOT / "params.yaml")
    for name in covered(params):
        text = (ROOT / f"results/{name}/config.yaml").read_text()
        assert text == resolved_yaml(name, params.experiment(name)), "run `rpg config`"


def test_every_stage_has_a_description_and_one_line_per_command() -> None:
    for stage in stages(ROOT).values():
        assert stage["desc"]
        for command in [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]:
            known = ("snakemake --cores all --allowed-rules ", "python -m rpg ledger ", "python -m rpg config ")
            assert command.startswith(known)


EXTRA = """
rule extra:
    input:
        rules.score.output.scores,
    output:
        "results/{experiment}/extra.json",
    shell:
        "cp {input} {output}"
"""


def test_ablation_in_run_is_a_stage(checkout: Path) -> None:
    """Its trials, in one folder, and what they take from the experiment that they are variants of."""
    tree = yaml.safe_load((checkout / "params.yaml").read_text())
    variants = {"same": {}, "wide": {"tokens.width": 32}, "one": {"zoo.seeds": [0]}, "steps": {"sample.steps": 1}}
    why = {"question": "Why?", "experiment": "mini", "seeds": [0, 1], "novelty": True, "variants": variants}
    write = {**tree, "run": ["mini", "why"], "ablations": {"why": why}}
    (checkout / "params.yaml").write_text(yaml.safe_dump(write))
    (checkout / "dvc.yaml").write_text(dvc_yaml(load_params(checkout / "params.yaml")))
    every = jobs(checkout, "--forceall")
    assert {job.rule for job in every} == {*RULES, "ablation"}
    # What nothing in this ablation shares with the experiment is a dep all the same: another variant may.
    assert [line for line in differences(checkout, every) if "is read by no rule" not in line] == []
    assert {out for stage in stages(checkout).values() for out in stage["outs"]} >= {"results/why"}
    assert "results/why" in stages(checkout)["tables"]["deps"]


def test_rule_without_a_stage_is_noticed(checkout: Path) -> None:
    with (checkout / "workflow/rules/stages.smk").open("a") as rules:
        rules.write(EXTRA)
    assert differences(checkout, jobs(checkout, "--forceall")) == ["rule extra has no stage"]
    edit(checkout / "workflow/rules/tables.smk", "    input:\n", '    input:\n        "results/mini/extra.json",\n')
    found = differences(checkout, jobs(checkout, "--forceall"))
    assert "results/mini/extra.json lies under 0 outs" in found
    assert "tables: results/mini/extra.json is no dep" in found


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (
            'writes={"manifest": "samples/manifest.json",',
            'writes={"manifest": "samples/manifest.json", "extra": "extra.json",',
            "results/mini/extra.json lies under 0 outs",
        ),
        (
            'reads=("tokens.layout", "tokens.stats", "train.model", "train.config"),',
            'reads=("tokens.layout", "tokens.stats", "train.model"),',
            "rpg/config.json is read by no rule",
        ),
        ('    "rpg/evaluation",\n', '    "rpg/reports",\n', "@mini: rpg/reports/tables.py is no dep"),
    ],
)
def test_changed_registry_is_noticed(checkout: Path, old: str, new: str, found: str) -> None:
    """A stage whose rule changed, and whose stage in dvc.yaml was not written anew."""
    edit(checkout / "rpg/stages.py", old, new)
    assert any(found in line for line in differences(checkout, jobs(checkout, "--forceall")))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("      - results/${item}/rpg/log.csv\n", "results/mini/rpg/log.csv lies under 0 outs"),
        ("      - results/${item}/zoo\n", "tokens@mini: results/mini/zoo/checkpoints.json is no dep"),
        ("      - rpg/model\n", "train@mini: rpg/model/mamba2.py is no dep"),
        ("      - rpg/zoo\n", "zoo-classification-digits@mini: rpg/zoo/collect.py is no dep"),
    ],
)
def test_line_missing_from_dvc_yaml_is_noticed(checkout: Path, every_job: list[Job], line: str, found: str) -> None:
    edit(checkout / "dvc.yaml", line, "")
    assert found in differences(checkout, every_job)


# Keys that cannot change alone: there is one kind of task, and another denoiser has other keys.
ALONE = {"task.kind", "model.denoiser.kind"}
OTHER = {
    "task.data": "cifar10",
    "task.network": {"name": "resnet18", "arguments": {}},
    "zoo.seeds": [0, 1, 2, 9],
    "model.conditions": [{"kind": "vector", "field": "validation_top1", "hidden": None, "reach": "each"}],
    "model.backbone.kind": "lstm",
    "model.backbone.positions": ["1d"],
    "model.backbone.width": 36,
    "model.start": "mean",
    "diffusion.target": "v",
    "train.sharded": True,
    "train.optimizer": "adamw8bit",
    "train.betas": [0.8, 0.95],
    "train.precision": "bfloat16",
    "train.checkpointing": True,
    "train.state_every": 20,
    "sample.solver": "ddim",
    "sample.between": 2,
    "novelty.noise": [0.2],
}


# One shard, so that there is less to plan.
QUICK = {**MINIATURE, "zoo": {**MINIATURE["zoo"], "seeds": [0, 1]}}


def flipped() -> dict[str, dict[str, Any]]:
    """Every key of an experiment that can change alone → the miniature with another value there."""
    return {name: tree for name, tree in _flipped(QUICK, "") if name not in ALONE}


def _flipped(block: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in block.items():
        name = f"{where}{key}"
        if name in OTHER:
            yield name, {**block, key: OTHER[name]}
        elif isinstance(value, dict):
            yield from ((inner, {**block, key: changed}) for inner, changed in _flipped(value, f"{name}."))
        elif name not in ALONE:
            yield name, {**block, key: value + 1 if isinstance(value, int) else value / 2 + 0.001}


def stale_in_dvc(tree: dict[str, dict[str, Any]], key: str, experiment: str = "mini") -> set[str]:
    """The stages that a changed key of an experiment makes stale, by their params, deps and outs."""
    dotted = f"experiments.{experiment}.{key}"
    return below(
        tree,
        {
            name
            for name, stage in tree.items()
            if any(dotted == listed or dotted.startswith(f"{listed}.") for listed in stage["params"])
        },
    )


def test_every_key_makes_the_same_layers_stale_in_both_tools(checkout: Path) -> None:
    """One experiment per key, all finished (by name only) with the same values; then each with another one there."""
    tree = stages(checkout)
    names = {key: f"x{index}" for index, key in enumerate(flipped())}
    assert len(names) > 30

    def write(experiments: dict[str, Any]) -> None:
        write_tree(checkout, **experiments)

    write(dict.fromkeys(names.values(), QUICK))
    for path in [checkout / name for job in jobs(checkout) for name in job.writes]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
    snakemake(checkout, "--touch", "--forceall", "--cores", "2", "--", "results/tables.md")
    assert jobs(checkout) == []
    write({names[key]: tree for key, tree in flipped().items()})
    stale: dict[str, set[str]] = {name: {"tables"} for name in names.values()}
    for job in jobs(checkout):
        stale.get(job.experiment, set()).add(job.rule)
    reached = {block: set(rules) for (block, _, _), rules in REACHED.items()}
    for key, name in names.items():
        # A further seed leaves the shards of the others as they are.
        assert stale[name] | {"zoo"} == reached[key.split(".")[0]] | {"zoo"}, key
        assert as_stages(stale[name]) == set(map(stage_of, stale_in_dvc(tree, key))), key


@pytest.mark.parametrize("stage", [name for name, _ in ledger_stages() if name not in OPTIONAL])
def test_params_key_missing_from_a_stage_is_noticed(checkout: Path, every_job: list[Job], stage: str) -> None:
    whole = yaml.safe_load((checkout / "dvc.yaml").read_text())
    (name,) = (name for name in whole["stages"] if stage_of(name) == stage)
    # Scores have none of their own: the zoo's manifests, which they read, hold the task.
    ((file, keys),) = whole["stages"][name]["do"].get("params", [{"": []}])[0].items()
    for key in keys:
        whole["stages"][name]["do"]["params"] = [{file: [other for other in keys if other != key]}]
        (checkout / "dvc.yaml").write_text(yaml.safe_dump(whole))
        assert differences(checkout, every_job) == [f"{name}@mini: experiments.mini.{key} is no param"]


def digest(path: Path) -> str:
    """The MD5 of a file as DVC records it, or of the source files in a folder."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    entries = [{"md5": digest(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    return hashlib.md5(json.dumps(sorted(entries, key=itemgetter("relpath"))).encode()).hexdigest() + ".dir"


def test_lock_is_that_of_the_committed_files() -> None:
    """As `rpg ledger status` in a fresh clone: code, params and tables are those that made what dvc.lock records."""
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    params = load_params(ROOT / "params.yaml")
    resolved = {name: experiment.model_dump() for name, experiment in params.experiments.items()}
    made = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    for name, stage in stages(ROOT).items():
        recorded = {dep["path"]: dep["md5"] for dep in lock[name]["deps"]}
        assert sorted(recorded) == sorted(stage["deps"]), f"{name}; run `dvc repro`"
        for path, md5 in recorded.items():
            assert (made.get(path) or digest(ROOT / path)) == md5, f"{name}: {path}; run `dvc repro`"
        for file, values in lock[name].get("params", {}).items():
            for key, value in values.items():
                node = params.run if file == "params.yaml" else resolved[Path(file).parent.name][key]
                assert node == value, f"{name}: {key}; run `dvc repro`"
        hashes = {out["path"]: out["md5"] for out in lock[name]["outs"]}
        for path in stage["committed"]:
            # Those in git are meant: another machine may have come to other numbers.
            content = run_in(ROOT, "git", "show", f"HEAD:{path}")
            assert hashlib.md5(content.encode()).hexdigest() == hashes[path], path


def test_layers_that_an_experiment_may_lack_are_stages_of_those_that_have_them(checkout: Path) -> None:
    """One experiment with and one without; each block reaches the same layers in both tools."""
    write_tree(checkout, mini=QUICK, tasks=TASKS)
    (checkout / "dvc.yaml").write_text(dvc_yaml(load_params(checkout / "params.yaml")))
    every = jobs(checkout, "--forceall")
    assert differences(checkout, every) == []
    tree = stages(checkout)
    assert {name for name in tree if name.endswith("@tasks")} == {
        "base-task-codes-digits@tasks", "zoo-task-codes-digits-base@tasks", "tokens@tasks", "train@tasks",
        "tune-task-codes-digits@tasks", "hypernetwork-task-codes-digits@tasks",
        "sample-task-codes-digits-tune-hypernetwork@tasks", "score-task-codes-digits-base@tasks",
        "novelty-task-codes-digits@tasks",
    }  # fmt: skip
    for path in [checkout / name for job in every for name in job.writes]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
    snakemake(checkout, "--touch", "--forceall", "--cores", "2", "--", "results/tables.md")
    for block, key, value in (
        ("task", "held_out", [314, 483]),
        ("base", "steps", 61),
        ("zoo", "batch", 65),
        ("tune", "diffusion", 0.2),
        ("hypernetwork", "images", 17),
        ("sample", "seen", 5),
        ("novelty", "seed", 1),
    ):
        write_tree(checkout, mini=QUICK, tasks={**TASKS, block: {**TASKS[block], key: value}})
        found = {job.rule for job in jobs(checkout) if job.experiment}
        in_dvc = stale_in_dvc(tree, f"{block}.{key}", "tasks")
        assert {name.partition("@")[2] for name in in_dvc} == {"tasks", ""}
        assert as_stages(found) == set(map(stage_of, in_dvc)) - {"tables"}, block


def test_every_rule_is_counted() -> None:
    assert rules_in(ROOT) == {*RULES, *OPTIONAL, *OTHER_RULES}


def test_params_have_no_anchors() -> None:
    """`dvc exp run -S` would write a changed value to each place that shares it, or lose it."""
    assert not re.search(r"[&*][\w-]+\s*$", (ROOT / "params.yaml").read_text(), re.M)


def test_verbs_refuse_in_one_line(checkout: Path) -> None:
    """Without git, without DVC, with an old dvc.yaml."""
    for verb in ("status", "pull", "push", "adopt"):
        text = run_in(checkout, "python", "-m", "rpg", "ledger", verb, ok=False)
        assert text.startswith("rpg: error: ")
        assert text.count("\n") == 1, text
    edit(checkout / "params.yaml", "run:\n- mini", "run:\n- other")
    edit(checkout / "params.yaml", "  mini:", "  other:")
    for arguments in (["status"], ["pull"], ["push"], ["write", "--check"]):
        text = run_in(checkout, "python", "-m", "rpg", "ledger", *arguments, ok=False)
        assert (
            text == "rpg: error: dvc.yaml: differs from params.yaml and the stages; "
            "run `rpg ledger write`, then this command again\n"
        )
