"""The stages of the pipeline: the one list of them.

Snakemake's rules, dvc.yaml, the command line, the ledger, the seconds table and the tests read it. A stage names an
artifact of an earlier stage as "stage.artifact".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

# What the package's versions and the helpers of every stage are: dependencies of all of them.
ALWAYS = ("rpg/utils", "environment.yml")
# What builds, trains and scores networks, besides the folder of the benchmark.
TASKS = ("rpg/tasks/__init__.py", "rpg/tasks/base.py", "rpg/tasks/loading.py", "rpg/tasks/stack.py")
# A condition of `Stage.reads_if` besides the names of optional stages.
TASK_CODES = "task_codes"


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline for one experiment: a rule of Snakemake and a verb of `rpg` have its name.

    `blocks` are the blocks of the experiment whose values it depends on, besides its input files. `writes` gives each
    artifact's path below results/<experiment>/, `reads` the artifacts of earlier stages, `reads_if` more of them for
    experiments with that optional stage, or with task codes. `code` lists the files and folders that compute it; with
    `task_code` the benchmark's own belong to them.
    """

    name: str
    description: str
    blocks: tuple[str, ...]
    writes: Mapping[str, str]
    code: tuple[str, ...]
    task_code: bool = False
    reads: tuple[str, ...] = ()
    reads_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Seconds of a job in the default run, on one core of an AMD EPYC (Zen 4): means of logs/*/<stage>.tsv.
    seconds: float = 1
    # For Snakemake: memory and time limit of a job, and which goes first.
    memory_mb: int = 2000
    minutes: int = 60
    priority: int = 0
    # Whether a GPU speeds it up.
    gpu: bool = False
    # An optional stage belongs to the experiments that have its block.
    optional: bool = False
    # A resumable stage continues where a job of it was stopped.
    resumable: bool = False
    # Whether it reads data sets, or networks that were trained elsewhere.
    reads_data: bool = False
    # The column of results/seconds.md; without one no seconds are kept.
    seconds_column: str | None = None
    # The artifact that lists files with their SHA-256, and its key of the list.
    lists: tuple[str, str] | None = None
    # For DVC: the artifacts as it records them, if those are not the files of `writes`; the metrics; the stage of
    # dvc.yaml that a rule belongs to, if that is another one; whether DVC leaves old files; options of Snakemake.
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    ledger_stage: str | None = None
    persist: bool = False
    options: tuple[str, ...] = ()

    @property
    def recorded(self) -> tuple[str, ...]:
        """The paths below results/<experiment>/ that DVC records, metrics left out."""
        return self.outs or tuple(path for path in self.writes.values() if path not in self.metrics)


def _trained(folder: str, stage: str) -> dict[str, str]:
    """What a stage writes that trains a model."""
    return {
        "model": f"{folder}/model.safetensors",
        "config": f"{folder}/config.json",
        "log": f"{folder}/log.csv",
        "seconds": f"seconds/{stage}.json",
    }


_TOKENS = ("tokens.tokens", "tokens.layout", "tokens.stats")
_TRAINING = ("rpg/training", "rpg/model", "rpg/tokenizer", "rpg/zoo/manifest.py")
_SAMPLING = (*_TRAINING, *TASKS, "rpg/generator/sample.py", "rpg/generator/manifest.py")
_SCORING = (
    *TASKS,
    "rpg/tokenizer",
    "rpg/zoo/manifest.py",
    "rpg/generator/manifest.py",
    "rpg/evaluation/baselines.py",
    "rpg/evaluation/results.py",
    "rpg/evaluation/score.py",
)

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "base",
            "Train the base networks that the zoo's runs start from.",
            blocks=("task", "base"),
            writes={"manifest": "base/manifest.json"},
            lists=("manifest", "files"),
            outs=("base",),
            seconds=46,
            code=("rpg/zoo", *TASKS),
            task_code=True,
            minutes=240,
            priority=80,
            gpu=True,
            optional=True,
            reads_data=True,
        ),
        Stage(
            "zoo",
            "Train the source networks of one shard.",
            blocks=("task", "zoo"),
            writes={"manifest": "zoo/{shard}/manifest.json"},
            outs=("zoo",),
            reads_if={"base": ("base.manifest",)},
            seconds=23,
            code=("rpg/zoo", *TASKS),
            task_code=True,
            priority=70,
            gpu=True,
            reads_data=True,
            # DVC would delete all shards for one more seed. With `persist` they stay, and collect runs each time, so
            # that none of them is taken unchecked.
            persist=True,
            options=("--forcerun", "collect"),
        ),
        Stage(
            "collect",
            "List the checkpoints of all shards; remove shards that params.yaml no longer names.",
            blocks=("task", "zoo"),
            writes={"checkpoints": "zoo/checkpoints.json"},
            lists=("checkpoints", "checkpoints"),
            outs=("zoo",),
            reads=("zoo.manifest",),
            reads_if={"base": ("base.manifest",)},
            seconds=1,
            code=("rpg/zoo",),
            memory_mb=1000,
            minutes=30,
            priority=60,
            ledger_stage="zoo",
        ),
        Stage(
            "tokens",
            "Tokenize the checkpoints of the zoo.",
            blocks=("tokens",),
            writes={
                "tokens": "tokens/tokens.safetensors",
                "layout": "tokens/layout.json",
                "stats": "tokens/stats.safetensors",
            },
            lists=("layout", "files"),
            reads=("collect.checkpoints",),
            seconds=3,
            code=("rpg/tokenizer", "rpg/zoo/manifest.py"),
            priority=60,
        ),
        Stage(
            "train",
            "Train RPG on the tokens.",
            blocks=("model", "diffusion", "train"),
            writes=_trained("rpg", "train"),
            lists=("config", "files"),
            reads=_TOKENS,
            seconds=23,
            code=_TRAINING,
            memory_mb=3000,
            minutes=240,
            priority=50,
            gpu=True,
            resumable=True,
            seconds_column="RPG training seconds",
        ),
        Stage(
            "tune",
            "Fine-tune RPG on the task loss.",
            blocks=("task", "tune"),
            writes=_trained("tune", "tune"),
            lists=("config", "files"),
            reads=(*_TOKENS, "train.model", "train.config"),
            seconds=45,
            code=(*_TRAINING, *TASKS),
            task_code=True,
            memory_mb=3000,
            minutes=240,
            priority=40,
            gpu=True,
            optional=True,
            resumable=True,
            reads_data=True,
            seconds_column="tuning seconds",
        ),
        Stage(
            "hypernetwork",
            "Train a hypernetwork on the task loss alone.",
            blocks=("task", "model", "diffusion", "hypernetwork"),
            writes=_trained("hypernetwork", "hypernetwork"),
            lists=("config", "files"),
            reads=_TOKENS,
            seconds=66,
            code=(*_TRAINING, *TASKS),
            task_code=True,
            memory_mb=3000,
            minutes=240,
            priority=40,
            gpu=True,
            optional=True,
            resumable=True,
            reads_data=True,
            seconds_column="hypernetwork seconds",
        ),
        Stage(
            "sample",
            "Sample new networks.",
            blocks=("task", "sample"),
            writes={"manifest": "samples/manifest.json", "seconds": "seconds/sample.json"},
            lists=("manifest", "samples"),
            outs=("samples", "seconds/sample.json"),
            reads=("tokens.layout", "tokens.stats", "train.model", "train.config"),
            reads_if={
                "tune": ("tune.model", "tune.config"),
                "hypernetwork": ("hypernetwork.model", "hypernetwork.config"),
            },
            seconds=5,
            code=_SAMPLING,
            task_code=True,
            priority=30,
            gpu=True,
            seconds_column="seconds per sample",
        ),
        Stage(
            "score",
            "Score originals and samples on the test split.",
            blocks=("task",),
            writes={"scores": "scores.json", "answers": "answers.safetensors", "metrics": "metrics.json"},
            metrics=("metrics.json",),
            reads=("collect.checkpoints", "sample.manifest"),
            reads_if={TASK_CODES: _TOKENS},
            seconds=14,
            code=_SCORING,
            task_code=True,
            priority=10,
            gpu=True,
            reads_data=True,
        ),
        Stage(
            "novelty",
            "Measure how far the samples are from the zoo, and compare them with what needs no RPG.",
            blocks=("task", "novelty"),
            writes={"summary": "novelty.json", "rows": "novelty.csv"},
            reads=("collect.checkpoints", *_TOKENS, "sample.manifest", "score.scores", "score.answers"),
            seconds=17,
            code=(
                *_SCORING,
                "rpg/evaluation/alignment.py",
                "rpg/evaluation/geometry.py",
                "rpg/evaluation/interpolation.py",
                "rpg/evaluation/novelty.py",
            ),
            task_code=True,
            memory_mb=3000,
            minutes=120,
            priority=20,
            gpu=True,
            reads_data=True,
        ),
    )
}
OPTIONAL = tuple(stage.name for stage in STAGES.values() if stage.optional)
READS_DATA = tuple(stage.name for stage in STAGES.values() if stage.reads_data)
TIMED = tuple(stage.name for stage in STAGES.values() if stage.seconds_column)


@dataclass(frozen=True)
class Summary:
    """A step that puts several experiments together: a rule and a verb, as `Stage`, that runs in seconds."""

    name: str
    description: str
    code: tuple[str, ...]
    memory_mb: int = 1000
    minutes: int = 10


_REPORTS = ("rpg/reports", "rpg/evaluation", "rpg/tasks", "rpg/paths.py", *ALWAYS)
SUMMARIES = {
    summary.name: summary
    for summary in (
        Summary("ablation", "Put the variants of an ablation beside each other.", code=_REPORTS),
        Summary("ablations", "Write results/ablations.md, the tables of all ablations.", code=_REPORTS),
        Summary("tables", "Write results/tables.md, metrics.json, scores.csv and seconds.json.", code=_REPORTS),
        Summary(
            "report",
            "Write results/report.html, all tables and figures on one page.",
            code=_REPORTS,
            memory_mb=3000,
            minutes=30,
        ),
    )
}


def artifact(name: str) -> str:
    """The path of an artifact, "stage.artifact", below results/<experiment>/."""
    stage, _, key = name.partition(".")
    return STAGES[stage].writes[key]


def before(stage: str) -> Iterator[str]:
    """The stages that a stage reads from, optional ones included."""
    own = STAGES[stage]
    yield from dict.fromkeys(name.partition(".")[0] for name in chain(own.reads, *own.reads_if.values()))


def decides(stage: str) -> frozenset[str]:
    """The blocks of an experiment that decide what a stage makes, through all stages before it."""
    return frozenset(STAGES[stage].blocks).union(*map(decides, before(stage)))


def covered_by(stage: str) -> str:
    """The stage of dvc.yaml that a rule belongs to."""
    return STAGES[stage].ledger_stage or stage
