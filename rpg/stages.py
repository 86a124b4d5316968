"""The registry of the pipeline's stages.

Snakemake's rules, dvc.yaml, the ledger, the paths, the seconds table and the tests read this registry. The name
"stage.artifact" refers to an artifact of a stage.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

# Dependencies of every stage: the shared helpers and the packages' versions.
ALWAYS = ("rpg/utils", "environment.yml")
# The code that builds, trains and scores networks, besides the benchmark's folder.
# rpg/tasks/loading.py and registry.py only find it.
TASKS = ("rpg/tasks/base.py", "rpg/tasks/stack.py")
# Keys of `Stage.reads_if`; the other keys are the names of optional stages.
TASK_CODES = "task_codes"
BASE_OF_TASK_CODES = "base and task_codes"
# For experiments with the condition `images`, or `text`.
IMAGES, TEXT = "images", "text"


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline for one experiment; a rule of Snakemake and a verb of `rpg` have the same name.

    A stage depends on its input files and on the experiment's `blocks`. `writes` maps artifacts to paths below
    results/<experiment>/. `reads` lists artifacts of earlier stages, and `reads_if` further ones for experiments with
    that optional stage, with task codes, or with both. `module` computes the stage. `code` lists the files and folders
    of the stage's code; with `task_code` the benchmark's own code belongs to them.
    """

    name: str
    description: str
    blocks: tuple[str, ...]
    writes: Mapping[str, str]
    module: str
    code: tuple[str, ...]
    task_code: bool = False
    # Further code for experiments with a generator in RPG's place; the benchmark's own code belongs to it.
    peer_code: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    reads_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Seconds of a job in the default run on one core of an AMD EPYC (Zen 4): the mean of logs/*/<stage>.tsv.
    seconds: float = 1
    # For Snakemake: a job's memory and time limit; jobs of higher priority start first.
    memory_mb: int = 2000
    minutes: int = 60
    priority: int = 0
    # Whether a GPU speeds the stage up.
    gpu: bool = False
    # An optional stage exists in experiments that have a block of the same name.
    optional: bool = False
    # A resumable stage continues a stopped job.
    resumable: bool = False
    # Whether the stage reads data sets or networks trained elsewhere.
    reads_data: bool = False
    # The stage's column in results/seconds.md; without a column no seconds are kept.
    seconds_column: str | None = None
    # The artifact that lists files with their SHA-256, and the key of this list.
    lists: tuple[str, str] | None = None
    # For DVC: the recorded paths, if they differ from `writes`; the metrics; the stage of dvc.yaml that runs the rule,
    # if its name differs; whether DVC keeps old files; options of Snakemake.
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    ledger_stage: str | None = None
    persist: bool = False
    options: tuple[str, ...] = ()

    @property
    def sharded(self) -> bool:
        """Whether the stage has one job per shard of the zoo."""
        return any("{shard}" in path for path in self.writes.values())

    @property
    def recorded(self) -> tuple[str, ...]:
        """The paths below results/<experiment>/ that DVC records, without metrics."""
        return self.outs or tuple(path for path in self.writes.values() if path not in self.metrics)


def _trained(folder: str, stage: str) -> dict[str, str]:
    """Return the artifacts of a stage that trains a model."""
    return {
        "model": f"{folder}/model.safetensors",
        "config": f"{folder}/config.json",
        "log": f"{folder}/log.csv",
        "seconds": f"seconds/{stage}.json",
    }


_TOKENS = ("tokens.tokens", "tokens.layout", "tokens.stats")
_TOKENIZER = ("rpg/tokenizer", "rpg/utils/statistics.py")
_TRAINING = ("rpg/training", "rpg/model", *_TOKENIZER, "rpg/zoo/manifest.py")
_SAMPLING = (*_TRAINING, *TASKS, "rpg/generator/sample.py", "rpg/utils/condition_requests.py")
_SCORING = (
    *TASKS,
    "rpg/tokenizer",
    "rpg/zoo/manifest.py",
    "rpg/evaluation",
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
            seconds=39,
            module="rpg.zoo.base",
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
            seconds=12,
            module="rpg.zoo.shards",
            code=("rpg/zoo", *TASKS),
            task_code=True,
            priority=70,
            gpu=True,
            reads_data=True,
            # Without `persist`, DVC would delete all shards for one more seed. Old shards stay, so collect must run
            # each time to check them.
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
            module="rpg.zoo.collect",
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
            outs=("tokens",),
            lists=("layout", "files"),
            reads=("collect.checkpoints",),
            seconds=1,
            module="rpg.tokenizer.tokens",
            code=(*_TOKENIZER, "rpg/zoo/manifest.py"),
            priority=60,
        ),
        Stage(
            "train",
            "Train RPG on the tokens.",
            blocks=("model", "diffusion", "train"),
            writes=_trained("rpg", "train"),
            lists=("config", "files"),
            reads=_TOKENS,
            reads_if={IMAGES: ("base.manifest",)},
            seconds=9,
            module="rpg.training.train",
            code=_TRAINING,
            peer_code=("rpg/peers", "rpg/peer_training", *_SCORING),
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
            reads_if={IMAGES: ("base.manifest",)},
            seconds=34,
            module="rpg.training.tune",
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
            reads_if={IMAGES: ("base.manifest",)},
            seconds=23,
            module="rpg.training.hypernetwork",
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
                IMAGES: ("base.manifest",),
            },
            seconds=1,
            module="rpg.generator.sample",
            code=_SAMPLING,
            peer_code=("rpg/peers", "rpg/generator/peer_samples.py"),
            task_code=True,
            priority=30,
            gpu=True,
            seconds_column="seconds per sample",
        ),
        Stage(
            "score",
            "Score originals and samples on the test split.",
            blocks=("task",),
            writes={
                "scores": "scores.json",
                "answers": "answers.safetensors",
                "metrics": "metrics.json",
                "test": "test.json",
            },
            metrics=("metrics.json",),
            reads=("collect.checkpoints", "sample.manifest"),
            reads_if={TASK_CODES: _TOKENS, BASE_OF_TASK_CODES: ("base.manifest",)},
            seconds=6,
            module="rpg.evaluation.score",
            code=_SCORING,
            task_code=True,
            priority=10,
            gpu=True,
            reads_data=True,
        ),
        Stage(
            "novelty",
            "Measure the distance of samples and baselines from the zoo.",
            blocks=("task", "novelty"),
            writes={"summary": "novelty.json", "rows": "novelty.csv"},
            reads=("collect.checkpoints", *_TOKENS, "sample.manifest", "score.scores", "score.answers"),
            seconds=9,
            module="rpg.evaluation.novelty",
            code=_SCORING,
            task_code=True,
            memory_mb=3000,
            minutes=120,
            priority=20,
            gpu=True,
            reads_data=True,
        ),
        Stage(
            "prompts",
            "Measure networks for prompts beside rivals that see the same prompts.",
            blocks=("task", "zoo", "sample", "prompts"),
            writes={"summary": "prompts.json", "rows": "prompts.csv", "table": "prompts.md"},
            lists=("summary", "files"),
            reads=("collect.checkpoints", *_TOKENS),
            reads_if={
                IMAGES: ("base.manifest", "tune.model", "tune.config"),
                TEXT: ("tune.model", "tune.config"),
                "hypernetwork": ("hypernetwork.model", "hypernetwork.config"),
            },
            seconds=60,
            module="rpg.evaluation.prompts",
            code=(*_SCORING, *_SAMPLING),
            task_code=True,
            memory_mb=3000,
            minutes=240,
            priority=10,
            gpu=True,
            optional=True,
            reads_data=True,
        ),
        Stage(
            "wanted",
            "Compare asked numbers with those of the generated networks.",
            blocks=("task", "sample", "wanted"),
            writes={"summary": "wanted.json", "rows": "wanted.csv", "table": "wanted.md"},
            lists=("summary", "files"),
            reads=("collect.checkpoints", *_TOKENS, "train.model", "train.config"),
            reads_if={"tune": ("tune.model", "tune.config")},
            seconds=60,
            module="rpg.evaluation.wanted",
            code=(*_SAMPLING, *_SCORING),
            task_code=True,
            priority=20,
            gpu=True,
            optional=True,
            reads_data=True,
        ),
    )
}
OPTIONAL = tuple(stage.name for stage in STAGES.values() if stage.optional)
READS_DATA = tuple(stage.name for stage in STAGES.values() if stage.reads_data)
TIMED = tuple(stage.name for stage in STAGES.values() if stage.seconds_column)


@dataclass(frozen=True)
class Summary:
    """A step over several experiments that runs in seconds; like a `Stage`, it is a rule and a verb."""

    name: str
    description: str
    code: tuple[str, ...]
    memory_mb: int = 1000
    minutes: int = 10


_REPORTS = ("rpg/reports", "rpg/evaluation", "rpg/tasks", "rpg/paths.py", *ALWAYS)
SUMMARIES = {
    summary.name: summary
    for summary in (
        Summary("ablation", "Compare the variants of an ablation.", code=_REPORTS),
        Summary(
            "joint",
            "Train one RPG for the networks of several experiments, and compare it with their own.",
            # Not all of rpg/reports: a change of the other tables needs no new training.
            code=(
                *("rpg/joint", "rpg/reports/joint.py", "rpg/reports/formatting.py"),
                *_SAMPLING,
                *_SCORING,
                *ALWAYS,
            ),
            memory_mb=3000,
            minutes=240,
        ),
        Summary("ablations", "Write results/ablations.md, the tables of all ablations.", code=_REPORTS),
        Summary("peers", "Write results/peers.md, RPG beside other generators on the same zoos.", code=_REPORTS),
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
    """Return the path of an artifact, "stage.artifact", below results/<experiment>/."""
    stage, _, key = name.partition(".")
    return STAGES[stage].writes[key]


def before(stage: str) -> Iterator[str]:
    """Yield the stages that a stage reads from, including optional ones."""
    own = STAGES[stage]
    yield from dict.fromkeys(name.partition(".")[0] for name in chain(own.reads, *own.reads_if.values()))


def decides(stage: str) -> frozenset[str]:
    """Return the blocks of an experiment that decide a stage's artifacts, including the blocks of earlier stages."""
    return frozenset(STAGES[stage].blocks).union(*map(decides, before(stage)))


def covered_by(stage: str) -> str:
    """Return the stage of dvc.yaml that runs a rule."""
    return STAGES[stage].ledger_stage or stage
