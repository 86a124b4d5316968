"""The rules: what they run, what they depend on, and that the tools of CI like them."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from checkouts import RULES, jobs, make_checkout, planned, run_in, snakemake, stages
from conftest import (
    ADAPTERS,
    GIVEN,
    MINIATURE,
    PAPER,
    ROOT,
    SCENES,
    TASKS,
    new_model,
    published,
    run_layers,
    write_given,
    write_params,
    write_tree,
)
from snakemake.scheduling.job_scheduler import JobScheduler

import rpg.pipeline.workflow as pipeline
from benchmarks.dag import plan
from rpg.config.loading import load_params
from rpg.sources import code, source_files
from rpg.stages import ALWAYS, OPTIONAL, STAGES, SUMMARIES
from rpg.tasks.registry import task_blocks

pytestmark = pytest.mark.integration
# One experiment of each of the paper's benchmarks.
LARGE = ["imagenet-convnext_large", "ade20k-upernet-vit_base", "coco-vitdet-vit_base", "commonsense-llama7b-dora-r64"]

# Rule → jobs of the miniature from nothing.
EVERYTHING = {"zoo": 2, "collect": 1, "tokens": 1, "train": 1, "sample": 1, "score": 1, "novelty": 1, "tables": 1}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


def take_as_finished(checkout: Path, finished: Path) -> None:
    """Put the finished miniature into `checkout` and have Snakemake record it."""
    shutil.copytree(finished / "results", checkout / "results", dirs_exist_ok=True)
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/tables.md")


def test_dry_run_is_complete_from_nothing(checkout: Path) -> None:
    assert planned(checkout) == EVERYTHING


def test_run_then_nothing_to_do_then_only_the_new_shard(checkout: Path, finished: Path) -> None:
    """The whole miniature through Snakemake. What each key makes stale is in test_ledger.py."""
    snakemake(checkout, "--cores", "2", "results/tables.md")
    names = sorted(path.relative_to(finished) for path in (finished / "results").rglob("*") if path.is_file())
    assert len(names) == 35
    for name in names:
        if "seconds" not in str(name):
            # The same bytes as the plain commands, which `finished` ran.
            assert (checkout / name).read_bytes() == (finished / name).read_bytes(), name
    assert "Nothing to be done" in snakemake(checkout, "--cores", "2", "results/tables.md")
    write_params(checkout, zoo={"seeds": [0, 1, 2, 4]})
    assert planned(checkout) == {**EVERYTHING, "zoo": 1}


def test_tables_from_git_do_not_hide_that_nothing_was_run(checkout: Path, finished: Path) -> None:
    """As in a fresh clone: tables newer than everything, no artifacts, no records of Snakemake's."""
    (checkout / "results").mkdir()
    for name in ("tables.md", "metrics.json", "scores.csv", "novelty.csv", "seconds.json", "seconds.md"):
        shutil.copy(finished / "results" / name, checkout / "results")
    assert planned(checkout) == EVERYTHING
    # The same where Snakemake has records of a run whose artifacts were deleted.
    take_as_finished(checkout, finished)
    assert planned(checkout) == {}
    shutil.rmtree(checkout / "results/mini")
    assert planned(checkout) == EVERYTHING


def test_paper_is_planned_without_data_and_then_told_what_is_missing(tmp_path: Path, monkeypatch) -> None:
    """`run` from the command line; a plan needs no data, the run itself says in one line each what is not there."""
    checkout = make_checkout(tmp_path)
    shutil.copy(ROOT / "params.yaml", checkout)
    shutil.copytree(ROOT / "workflow/configs", checkout / "workflow/configs", dirs_exist_ok=True)
    config = ("--config", f"run=[{', '.join(LARGE)}]")
    per_experiment = dict.fromkeys(("collect", "tokens", "train", "sample", "score", "novelty"), 4)
    # ImageNet's zoo has five runs; the adapters' language model is none of ours.
    assert planned(checkout, *config) == {**per_experiment, "base": 3, "zoo": 8, "tables": 1}
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "RPG_DATA": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    told = run_in(checkout, "snakemake", "--cores", "1", *config, "--", "results/tables.md", ok=False)
    for missing in (
        f"{tmp_path}/imagenet: no such data folder",
        f"{tmp_path}/ADEChallengeData2016: no such data folder",
        f"{tmp_path}/coco: no such data folder",
        f"{tmp_path}/commonsense: no such data folder",
        "params.yaml: base.revision: must be the commit of 'timm/convnext_large.fb_in22k_ft_in1k'",
        "params.yaml: task.revision: must be the commit of 'huggyllama/llama-7b'",
    ):
        assert len([line for line in told.splitlines() if line.startswith(missing)]) == 1, missing
    assert "Traceback" not in told
    assert not list((checkout / "results").glob("*/base"))
    # What is taken for finished needs no data.
    (checkout / "results/tables.md").parent.mkdir(exist_ok=True)
    assert "no such data folder" not in run_in(
        checkout, "snakemake", "--touch", "--forceall", "--cores", "1", *config, "--", "results/tables.md", ok=False
    )


def test_run_from_the_command_line_is_what_the_tables_cover(checkout: Path, finished: Path) -> None:
    write_tree(checkout, mini=MINIATURE, other=MINIATURE)
    mini = ("--config", "run=[mini]")
    shutil.copytree(finished / "results", checkout / "results", dirs_exist_ok=True)
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", *mini, "--", "results/tables.md")
    snakemake(checkout, "--cores", "1", *mini, "--forcerun", "tables", "--", "results/tables.md")
    assert (checkout / "results/tables.md").read_bytes() == (finished / "results/tables.md").read_bytes()
    for given, fault in (
        ("run=[none]", "--config: run: no experiment 'none'"),
        ("train=3", "--config train: only run"),
    ):
        assert fault in run_in(checkout, "snakemake", "--dry-run", "--config", given, ok=False)


def test_content_counts_and_not_time(checkout: Path, finished: Path) -> None:
    """Touched code is no change; changed code is one, for the layers that it is part of."""
    take_as_finished(checkout, finished)
    for path in (checkout / "rpg").rglob("*.py"):
        path.touch()
    assert planned(checkout) == {}
    # No result depends on a comment in params.yaml, on the command line or on code that reads params.yaml; a change of
    # the reports makes the tables anew and nothing else.
    for name, rules in (
        ("params.yaml", ()),
        ("rpg/cli.py", ()),
        ("rpg/stages.py", ()),
        ("rpg/config/loading.py", ()),
        ("rpg/tasks/classification/config.py", ()),
        ("rpg/tasks/commonsense/task.py", ()),
        ("rpg/reports/figures.py", RULES[-1:]),
        ("rpg/evaluation/score.py", RULES[5:]),
        ("rpg/generator/sample.py", RULES[4:]),
        ("rpg/tokenizer/tokens.py", RULES[2:]),
        ("rpg/tasks/classification/networks.py", RULES),
    ):
        with (checkout / name).open("a") as file:
            file.write("# changed\n")
        # The tables' own code includes the benchmarks', whose cards and sections they show.
        assert set(planned(checkout)) - {"tables"} == set(rules) - {"tables"}, name
        assert ("tables" in planned(checkout)) is bool(rules) or name.startswith("rpg/tasks/"), name
        snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/tables.md")


def test_profile_of_ones_own_with_fewer_triggers_overlooks_nothing(
    checkout: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A common habit is `rerun-triggers: mtime` in a profile of one's own; Snakemake 9.27.1 then ignores params."""
    take_as_finished(checkout, finished)
    own = tmp_path_factory.mktemp("own")
    (own / "config.yaml").write_text("rerun-triggers: mtime\n")
    assert planned(checkout, "--profile", str(own)) == {}
    write_params(checkout, train={"steps": 41})
    assert set(planned(checkout, "--profile", str(own))) == set(RULES[3:])


def test_fault_in_a_layer_shows_in_the_output(checkout: Path, finished: Path) -> None:
    take_as_finished(checkout, finished)
    write_params(checkout, train={"learning_rate": 1e30, "gradient_clip": 1e30, "warmup": 0.0})
    text = run_in(checkout, "snakemake", "--cores", "2", "results/tables.md", ok=False)
    assert "lower train.learning_rate" in text


# The module that does the work of a stage.
MODULES = {
    "base": "rpg.zoo.base",
    "zoo": "rpg.zoo.shards",
    "collect": "rpg.zoo.collect",
    "tokens": "rpg.tokenizer.tokens",
    "train": "rpg.training.train",
    "tune": "rpg.training.tune",
    "hypernetwork": "rpg.training.hypernetwork",
    "sample": "rpg.generator.sample",
    "score": "rpg.evaluation.score",
    "novelty": "rpg.evaluation.novelty",
}
# What reads and checks params.yaml, and says where files lie: values are tracked through the rules' params.
SCHEMA = (
    "rpg/config/",
    "rpg/blocks.py",
    "rpg/sources.py",
    "rpg/stages.py",
    "rpg/paths.py",
    "rpg/__init__.py",
    "rpg/tasks/loading.py",
    # The form of samples/manifest.json.
    "rpg/generator/manifest.py",
)


# Read with params.yaml: the blocks of all benchmarks, and the runs that a pattern names.
CONFIGURATION = ("config.py", "runs.py", "registry.py", "__init__.py")


@pytest.mark.parametrize(
    "blocks", [MINIATURE, TASKS, SCENES, ADAPTERS, GIVEN], ids=["digits", "tasks", "scenes", "adapters", "given"]
)
def test_code_of_a_stage_holds_every_module_that_it_loads(blocks: dict) -> None:
    """All modules of rpg that a process of each stage imports, its benchmark opened, are in the stage's code."""
    task = task_blocks()[blocks["task"]["kind"]].model_validate(blocks["task"])
    for stage, module in MODULES.items():
        opens = f"import {type(task).__module__.replace('.config', '.task')};" if STAGES[stage].task_code else ""
        files = "(m.__file__ for name, m in sys.modules.items() if name.startswith('rpg.'))"
        script = f"import sys, {module}; {opens} print(*{files})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
        loaded = {str(Path(path).relative_to(ROOT)) for path in done.stdout.split()}
        known = set(source_files(code(stage, task)))
        lacking = {path for path in loaded - known if not path.startswith(SCHEMA)}
        # Configuration of all benchmarks is read with params.yaml.
        assert not {path for path in lacking if Path(path).name not in CONFIGURATION}, stage
        assert f"{module.replace('.', '/')}.py" in known


def test_every_file_of_code_exists() -> None:
    entries = {*ALWAYS, *(entry for stage in STAGES.values() for entry in stage.code)}
    entries |= {entry for summary in SUMMARIES.values() for entry in summary.code}
    assert {entry for entry in entries if not (ROOT / entry).exists()} == set()


def test_fault_in_params_is_one_line_of_snakemake(checkout: Path) -> None:
    tree = yaml.safe_load((checkout / "params.yaml").read_text())
    tree["experiments"]["mini"]["train"]["stesp"] = 1
    (checkout / "params.yaml").write_text(yaml.safe_dump(tree))
    text = run_in(checkout, "snakemake", "-n", ok=False)
    assert "params.yaml: experiments.mini.train.stesp: unknown key" in text
    assert "Traceback" not in text


def test_missing_config_is_one_line_of_snakemake(checkout: Path) -> None:
    scenes = {**SCENES, "task": {**SCENES["task"], "config": "workflow/configs/scenes-uppernet.py"}}
    write_tree(checkout, scenes=scenes)
    text = run_in(checkout, "snakemake", "-n", ok=False)
    assert "experiments.scenes.task.config: no file 'workflow/configs/scenes-uppernet.py'" in text
    assert "Traceback" not in text


def test_segmentation_depends_on_its_config_and_code_and_classification_does_not(checkout: Path) -> None:
    config = "workflow/configs/scenes-upernet.py"
    write_tree(checkout, scenes={**SCENES, "task": {**SCENES["task"], "config": config}}, mini=MINIATURE)
    every = jobs(checkout, "--forceall")
    own = {
        config,
        "rpg/tasks/openmmlab/task.py",
        "rpg/tasks/openmmlab/vitdet.py",
        "rpg/tasks/segmentation/task.py",
    }
    for job in every:
        reads = set(job.reads)
        if job.experiment == "scenes" and job.rule in ("base", "zoo", "sample", "score", "novelty"):
            assert own <= reads, job.rule
        elif job.rule != "tables":
            assert not own & reads, job.rule
        # It would be made again for every change to what samples.
        assert job.rule == "sample" or "rpg/generator/sample.py" not in reads, job.rule


def test_a_given_zoo_depends_on_its_files_and_the_user_s_and_classification_does_not(checkout: Path) -> None:
    write_given(checkout)
    write_tree(checkout, given=GIVEN, mini=MINIATURE)
    own = {"theirs/network.py", "theirs/data.py", "rpg/tasks/custom/task.py", "rpg/tasks/adapters.py"}
    of_run = {run: {f"zoo/{run}/epoch-{epoch}.pth" for epoch in (8, 9, 10)} for run in "ab"}
    for job in jobs(checkout, "--forceall"):
        reads = set(job.reads)
        if job.experiment == "given" and job.rule in ("zoo", "sample", "score", "novelty"):
            assert own <= reads, job.rule
            assert "rpg/tasks/commonsense/task.py" not in reads, job.rule
        elif job.rule != "tables":
            assert not own & reads, job.rule
        shard = {"0000-0000": "a", "0001-0001": "b"}.get(Path(job.writes[0]).parent.name, "")
        for run, files in of_run.items():
            assert files & reads == (files if (job.experiment, run) == ("given", shard) else set()), job.writes


def test_a_changed_checkpoint_or_function_makes_anew_what_reads_it(checkout: Path) -> None:
    write_given(checkout)
    write_tree(checkout, given=GIVEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        run_layers(checkout, *RULES, experiment="given")
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/tables.md")
    assert planned(checkout) == {}
    path = checkout / "zoo/b/epoch-9.pth"
    kept = path.read_bytes()
    shutil.copy(checkout / "zoo/b/epoch-8.pth", path)
    assert planned(checkout) == {**EVERYTHING, "zoo": 1}
    path.write_bytes(kept)
    assert planned(checkout) == {}
    with (checkout / "theirs/data.py").open("a") as file:
        file.write("# changed\n")
    assert {"zoo", "score", "novelty"} <= set(planned(checkout))
    # Without the folder there is a plan; the run says what is missing before it starts.
    shutil.rmtree(checkout / "zoo/a")
    assert planned(checkout, "--forceall") == EVERYTHING
    text = run_in(checkout, "snakemake", "--cores", "2", "--forceall", "results/tables.md", ok=False)
    assert "zoo/a: no such checkpoints; correct zoo.runs" in text.splitlines()


def test_imported_weights_are_not_trained_again(checkout: Path, finished: Path) -> None:
    for layer in ("zoo", "tokens"):
        shutil.copytree(finished / "results/mini" / layer, checkout / "results/mini" / layer)
    paper = {**MINIATURE, "model": PAPER, "diffusion": {"target": "epsilon"}}
    write_tree(checkout, mini=paper)
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/mini/tokens/layout.json")
    torch.save(published(new_model(checkout)), checkout / "w.pth")
    run_in(checkout, "python", "-m", "rpg", "import", "--experiment", "mini", "--weights", "w.pth")
    assert planned(checkout) == {"sample": 1, "score": 1, "novelty": 1, "tables": 1}
    # Once recorded, its params count.
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/mini/rpg/model.safetensors")
    assert "train" not in planned(checkout)
    write_tree(checkout, mini={**paper, "train": {**MINIATURE["train"], "steps": 50}})
    assert planned(checkout)["train"] == 1


def test_rules_call_one_command_and_say_what_they_need() -> None:
    texts = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    rules = [rule for text in texts for rule in re.split(r"^(?:    )?rule\b", text, flags=re.M)[1:]]
    verbs = [re.findall(r"python -m rpg (\{?[\w.]+\}?)", rule) for rule in rules]
    # One rule for all stages of an experiment, whose verb has the rule's name.
    assert sorted(verbs) == [
        ["ablation"],
        ["ablations"],
        ["joint"],
        ["peers"],
        ["report"],
        ["tables"],
        ["{params.verb}"],
    ]
    for rule in rules:
        # Jobs of the fork server measure themselves.
        measured = "RPG_USAGE=" if "{params.verb}" in rule else "benchmark:"
        for directive in ("output:", "params:", "log:", measured, "threads:", "mem_mb=", "runtime=", "shell:"):
            assert directive in rule, (rule, directive)
        for forbidden in ("lambda", "    run:", "script:", "def "):
            assert forbidden not in rule, (rule, forbidden)
        assert ("localrule: True" in rule) is ("{params.verb}" not in rule)
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 40


def test_profile_for_gpus_gives_each_job_its_own_and_training_all(checkout: Path) -> None:
    options = ("--profile", "workflow/profiles/gpus", "--cores", "2", "-n", "--printshellcmds", "results/tables.md")
    text = run_in(checkout, "snakemake", *options)
    assert re.findall(r"env RPG_PROCESSES=(\d+) RPG_USAGE=\S+ python -m rpg train ", text) == ["4"]
    # Two shards of the zoo, sample, score and novelty.
    assert len(re.findall(r"resources: .*\bgpu=1\b", text)) == 5
    alone = run_in(checkout, "snakemake", "-n", "--printshellcmds", "results/tables.md")
    assert re.search(r"env RPG_PROCESSES=0 RPG_USAGE=logs/mini/train.tsv python -m rpg train ", alone)


def test_sigterm_does_not_wait_for_the_lock_that_its_own_thread_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake 9.27.1's handler of SIGTERM, job_scheduler.py, in the moment when the scheduler looks at its jobs."""
    monkeypatch.chdir(ROOT)
    scheduler = SimpleNamespace(_lock=threading.Lock(), _open_jobs=threading.Semaphore(0), _user_kill=None)
    dag = SimpleNamespace(needrun_jobs=list)
    pipeline.start(SimpleNamespace(touch=False, local_exec=False, dag=dag, scheduler=scheduler))

    def interrupted() -> None:
        with scheduler._lock:
            JobScheduler.exit_gracefully(scheduler)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(10)
    assert scheduler._user_kill == "graceful"


def test_the_command_takes_the_place_of_its_shell() -> None:
    """Or a signal to all processes of a job would kill the shell, and Snakemake would not wait for the command."""
    script = (
        f"echo $$; {pipeline.COMMAND_PREFIX} python -c 'import os; print(os.getpid(), os.environ[\"GLIBC_TUNABLES\"])'"
    )
    shell, command = run_in(ROOT, "bash", "-c", script).splitlines()
    assert command == f"{shell} {pipeline.MALLOC}"


# Jobs of these read a few small files.
LOCAL_RULES = set(SUMMARIES)


def test_profile_for_slurm_says_what_every_job_takes_and_where(checkout: Path) -> None:
    write_tree(checkout, tasks=TASKS)
    text = snakemake(checkout, "--profile", "workflow/profiles/slurm", "--dry-run", "results/tables.md")
    found = re.findall(r"^rule (\w+):\n.*?resources: (.*?)$", text, re.M | re.S)
    resources = {rule: dict(item.split("=", 1) for item in text.split(", ")) for rule, text in found}
    assert resources.keys() == {*RULES, *(stage for stage in OPTIONAL if stage in TASKS)}
    for rule in resources.keys() - LOCAL_RULES:
        asked = resources[rule]
        assert asked.keys() >= {"mem_mb", "runtime", "slurm_partition"}, rule
        # The same jobs as on a machine with several GPUs.
        gpus = yaml.safe_load((ROOT / "workflow/profiles/gpus/config.yaml").read_text())["set-resources"]
        on_gpu = rule in gpus
        assert asked["slurm_partition"] == ("gpu" if on_gpu else "cpu"), rule
        assert asked["gpu"] == ("1" if on_gpu else "0"), rule
        assert ("--signal=TERM@" in asked.get("slurm_extra", "")) is STAGES[rule].resumable, rule
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert profile["set-resources"].keys() <= resources.keys()
    assert profile["slurm-array-jobs"] == "zoo"


def test_later_attempts_get_more(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"zoo": {"memory_gb": 8, "hours": 3}, "train": {"memory_gb": 0.5, "hours": 0.1}}
    write_tree(checkout, mini=MINIATURE, large={**MINIATURE, "cluster": cluster})
    params = load_params(checkout / "params.yaml")
    monkeypatch.setattr(pipeline, "_params", lambda: params)

    def asked(experiment: str, stage: str, run: tuple[str, ...] = ("mini",)) -> list[tuple[int, int]]:
        wildcards, config = SimpleNamespace(experiment=experiment), {"run": run}
        found = (pipeline.memory(stage, config), pipeline.runtime(stage, config))
        return [tuple(given(wildcards, attempt) for given in found) for attempt in (1, 2, 3, 4)]

    assert asked("mini", "zoo") == [(2000, 60), (3000, 90), (4000, 120), (4000, 120)]
    assert asked("large", "zoo") == [(8000, 180), (12000, 270), (16000, 360), (16000, 360)]
    # A training resumes where it was stopped.
    assert asked("large", "train") == [(500, 6), (750, 6), (1000, 6), (1000, 6)]
    assert asked("large", "score") == asked("mini", "score")
    # The jobs of an array get what the first of them asks for.
    assert asked("mini", "zoo", ("mini", "large")) == asked("large", "zoo")


def test_what_jobs_take_on_a_cluster_makes_nothing_anew(checkout: Path, finished: Path) -> None:
    take_as_finished(checkout, finished)
    write_tree(checkout, mini={**MINIATURE, "cluster": {"train": {"memory_gb": 64, "hours": 24}}})
    assert planned(checkout) == {}
    assert "mem_mb=64000, mem=64 GB" in snakemake(checkout, "--dry-run", "--forceall", "results/tables.md")


def test_ten_thousand_shards_are_planned() -> None:
    planned_jobs = plan("digits-resnet", experiments=100, shards=100)
    # Zoo; collect, tokens, train, sample, score and novelty; tables.
    assert planned_jobs["jobs"] == 100 * 100 + 100 * 6 + 1
    assert planned_jobs["GB"] < 2


def test_shipped_experiments_plan_every_layer() -> None:
    assert planned(ROOT, "--forceall") == {
        "base": 4, "zoo": 9, "collect": 8, "tokens": 8, "train": 8, "tune": 3, "hypernetwork": 1, "sample": 8,
        "score": 8, "novelty": 8, "tables": 1,
    }  # fmt: skip


def test_committed_json_is_json() -> None:
    for path in [*(ROOT / "results").glob("*/metrics.json"), ROOT / "workflow/schemas/params.schema.json"]:
        json.loads(path.read_text())


def test_zoo_of_ones_own_in_folders_with_odd_names(checkout: Path) -> None:
    write_given(checkout)
    runs = ['zoo/it\'s a "run"', "zoo/-b $y; *ü"]
    for old, new in zip(GIVEN["zoo"]["runs"], runs, strict=True):
        (checkout / old).rename(checkout / new)
    write_tree(checkout, given={**GIVEN, "zoo": {**GIVEN["zoo"], "runs": runs}})
    target = "results/given/tokens/layout.json"
    snakemake(checkout, "--cores", "2", target)
    checkpoints = json.loads((checkout / "results/given/zoo/checkpoints.json").read_text())["checkpoints"]
    assert [(entry["seed"], entry["step"]) for entry in checkpoints] == [(s, k) for s in (0, 1) for k in (0, 1, 2)]
    assert "Nothing to be done" in snakemake(checkout, "--cores", "2", target)
    # Another file in such a folder makes its shard anew, and no other.
    first = checkout / runs[1] / "epoch-9.pth"
    shutil.copy(first, first.with_name("epoch-11.pth"))
    assert planned(checkout)["zoo"] == 1
    run_in(checkout, sys.executable, "-m", "rpg", "ledger", "write")
    found = {dependency for stage in stages(checkout).values() for dependency in stage["deps"]}
    assert set(runs) <= found
