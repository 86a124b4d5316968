"""Write results/peers.md, RPG beside other generators on the same zoos: `rpg peers`.

Each zoo is an ablation with `peers: true`, whose variants are generators. The page has a table and a plot of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pandas as pd

from rpg.blocks import PARAMS_FILE
from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.config.peers import AnyPeer
from rpg.evaluation.intervals import ScoreSample, difference
from rpg.evaluation.results import Method, NoveltyResult, Scores
from rpg.evaluation.score import SETS
from rpg.paths import Paths, ablation_file, paths_of
from rpg.reports.ablation import sample_of_trained, trained_networks
from rpg.reports.artifacts import AblationResult, Variant
from rpg.reports.formatting import label_set, mean, outcome, points, table
from rpg.reports.published import PUBLISHED, RPG, SOURCES
from rpg.reports.tables import measured_methods
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.store import TokenStore
from rpg.utils.artifacts import Difference, Seconds, Set
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, read_sealed, write_json, write_text

PAGE, DATA = "peers.md", "peers.json"
HEADING = """# RPG beside other generators on the same zoos

Every generator learns the same checkpoints, and the same stages sample, score and judge its networks. Scores are means
on the test split, in percent; brackets hold a 95 % interval over the zoo's training runs and the generator's trainings.
*Share* is the mean divided by the originals'. *Reads* is what a generator reads at sampling: *images* of the training
split count BatchNorm's statistics again, *labels* select networks. RPG reads nothing. *Distance* is the median distance
from the nearest checkpoint, in units of the median distance of a checkpoint from the nearest other one; *verdict* is as
in tables.md. *Generates* is the number of weights in a network that the generator makes; it copies the others from the
zoo. *Training s* is the mean of the trainings, tuning included, *s per sample* has what sampling reads, and *memory* is
that of the largest training process. *Stored* counts the numbers of the trained generator. The last rows are networks
that are made from the zoo without a generator.
"""
Artifact = TypeVar("Artifact", NoveltyResult, Scores)
# Stages whose seconds and memory are those of the training.
TRAINING = ("train", "tune")
# Generators that take up to this many times RPG's seconds are compared at equal seconds.
LONGER = 1.5


@dataclass(frozen=True)
class Contender:
    """A generator of a comparison: its row of the ablation, and the files of its trainings."""

    scored: Variant
    experiment: Experiment
    trials: Sequence[Paths]

    @property
    def generator(self) -> AnyPeer | None:
        """The block of a generator in RPG's place, None for RPG."""
        return self.experiment.model.generator

    @cached_property
    def costs(self) -> tuple[float, float, float | None]:
        """Mean training seconds, seconds per sample, and the trainings' megabytes, if these were measured."""
        stages = [stage for stage in TRAINING if stage in self.experiment.stages()]
        if not self.experiment.train.steps:
            stages.remove("train")
        training = sum(_seconds(paths, stage) for paths in self.trials for stage in stages)
        sampling = sum(_seconds(paths, "sample") for paths in self.trials)
        memory = [used for paths in self.trials for stage in stages if (used := _memory(paths, stage))]
        return training / len(self.trials), sampling / len(self.trials), max(memory) if memory else None

    @cached_property
    def novelty(self) -> list[NoveltyResult]:
        """What each training's networks are, copies or new."""
        return self._of_trials("novelty", "summary", NoveltyResult)

    def verdict(self, key: Set) -> str:
        """Return the verdict on a set of networks of all trainings."""
        novelty = self.scored.sets[key].novelty
        return novelty.verdict if novelty else "-"

    def above(self, rival: "Contender", key: Set) -> Difference:
        """Return the mean of this generator's test scores minus the rival's, with its interval."""
        above, interval = difference(self._test_scores(key), rival._test_scores(key))
        return Difference(mean=above, interval=list(interval)) if interval else Difference(mean=above)

    @cached_property
    def _scores(self) -> list[Scores]:
        return self._of_trials("score", "scores", Scores)

    def _of_trials(self, stage: str, file: str, of: type[Artifact]) -> list[Artifact]:
        """Return a sealed file of a stage of each training."""
        return [
            read_sealed(paths.file(f"{stage}.{file}"), f"rpg {stage} --experiment {paths.experiment}", of)
            for paths in self.trials
        ]

    @cached_property
    def layout(self) -> Layout:
        """The token layout of the networks."""
        return TokenStore(self.trials[0].folder("tokens")).layout

    def _test_scores(self, key: Set) -> ScoreSample:
        return sample_of_trained(trained_networks(self._scores, "rpg", key), "test")


def _seconds(paths: Paths, stage: str) -> float:
    return read_json(paths.file(f"{stage}.seconds"), f"rpg {stage} --experiment {paths.experiment}", Seconds).seconds


def _memory(paths: Paths, stage: str) -> float | None:
    maker = paths.makers.get(stage, paths.experiment)
    file = paths.results.parent / "logs" / maker / f"{stage}.tsv"
    return float(pd.read_csv(file, sep="\t")["max_rss"].iloc[0]) if file.is_file() else None


class Comparison:
    """The generators of an ablation with `peers: true`."""

    def __init__(self, params: Params, name: str, results: Path) -> None:
        """Read the ablation's result; UserError if it is missing, or if no variant is RPG."""
        self.params, self.name, self.ablation = params, name, params.ablation(name)
        command = f"rpg ablation --experiment {name}"
        self.result = read_sealed(ablation_file(name, results), command, AblationResult)
        self.kind = self.result.metric_kind
        self.contenders: dict[str, Contender] = {}
        for scored in self.result.variants:
            names = [f"{name}/{scored.variant}-{seed}" for seed in self.ablation.seeds]
            trials = [paths_of(params, trial, results) for trial in names]
            self.contenders[scored.variant] = Contender(scored, params.experiment(trials[0].experiment), trials)
        # The first variant whose generator is RPG.
        self.first = next((one for one, of in self.contenders.items() if of.generator is None), "")
        if not self.first:
            raise UserError(f"{PARAMS_FILE}: ablations.{name}.variants: none is RPG; add `rpg: {{}}`")
        self.rpg = self.contenders[self.first]
        self.keys: list[Set] = [key for key in SETS if key in self.rpg.scored.sets]
        # The set that the plot shows: all networks of single states, or those of held-out tasks.
        self.main: Set = "all" if "all" in self.keys else self.keys[-1]

    @property
    def rivals(self) -> dict[str, Contender]:
        """The generators of whole networks beside the first RPG."""
        tokens = self.rpg.experiment.tokens
        return {
            name: one for name, one in self.contenders.items() if one.experiment.tokens == tokens and name != self.first
        }

    def methods(self) -> Iterator[tuple[tuple[str, str], Method]]:
        """Yield (name, group) and the measures of generators of whole networks, and of networks without a generator.

        The groups are originals, RPG, generator and zoo. Each generator has those of its first training.
        """
        for name, contender in {self.first: self.rpg, **self.rivals}.items():
            yield (name, "generator" if contender.generator else "RPG"), contender.novelty[0].rpg[self.main]
        for method, key, measures in measured_methods(self.rpg.novelty[0]):
            if method == "originals" or (key == self.main and not method.startswith("RPG")):
                yield (method, "originals" if method == "originals" else "zoo"), measures

    def section(self, methods: Mapping[tuple[str, str], Method]) -> str:
        """Return the section of peers.md."""
        original = self.rpg.scored.sets[self.main].test.original
        rows = [
            self._row(name, contender, key)
            for name, contender in self.contenders.items()
            for key in self.keys
            if key in contender.scored.sets
        ]
        rows += [
            {
                "generator": method,
                "mean": mean(measures, self.kind),
                "min": self.kind.text(measures.min),
                "share": f"{measures.mean / original.mean:.3f}",
                "distance": f"{measures.distance:.2f}",
                "verdict": measures.verdict,
            }
            for (method, group), measures in methods.items()
            if group == "zoo"
        ]
        asked = f"{self.ablation.question} The originals have {mean(original, self.kind)} on the test split."
        lines = [
            f"## {title_of(self.params, self.name)}",
            "",
            asked,
            "",
            table([{column: row.get(column, "-") for column in rows[0]} for row in rows]),
            *(f"- {line}" for line in self._conclusions()),
            "",
        ]
        return "\n".join(lines)

    def _row(self, name: str, contender: Contender, key: Set) -> dict[str, str]:
        of, kind = contender.scored.sets[key], self.kind
        training, sampling, memory = contender.costs
        distances = [novelty.rpg[key].distance for novelty in contender.novelty]
        return {
            "generator": label_set(name, key),
            "mean": mean(of.test.rpg, kind),
            "min": kind.text(of.test.rpg.min),
            "share": f"{of.test.rpg.mean / of.test.original.mean:.3f}",
            "mean, validation": kind.text(of.validation.rpg.mean),
            "reads": _reads(contender.generator, contender.layout),
            "distance": f"{sum(distances) / len(distances):.2f}",
            "verdict": contender.verdict(key),
            "generates": f"{contender.layout.weights:,}",
            "training s": f"{training:.1f}",
            "s per sample": f"{sampling:.3f}",
            "memory MB": "-" if memory is None else f"{memory:.0f}",
            "stored": f"{contender.scored.parameters:,}",
        }

    def _conclusions(self) -> Iterator[str]:
        """Yield RPG's mean beside that of the rival with the best validation score, and RPG's speed of sampling."""
        rivals, (seconds, sampling, _) = self.rivals, self.rpg.costs
        longer = {name: one for name, one in rivals.items() if one.costs[0] > LONGER * seconds}
        for title, chosen in (
            (f"in at most {LONGER:g} times RPG's seconds", [name for name in rivals if name not in longer]),
            (f"in more than {LONGER:g} times RPG's seconds", [*longer]),
        ):
            for key in self.keys:
                known = [name for name in chosen if key in rivals[name].scored.sets]
                if not known:
                    continue
                best = max(known, key=lambda name: self._rank(rivals[name], key))
                above = self.rpg.above(rivals[best], key)
                yield (
                    f"{SETS[key]}: of generators {title}, *{best}* has the best validation score (verdict:"
                    f" {rivals[best].verdict(key)}). RPG minus it, on the test split, is {points(above, self.kind)}:"
                    f" {outcome(above, self.kind)}."
                )
        for name, rival in rivals.items():
            if rival.generator and rival.generator.kind in ("p_diff", "sane"):
                yield f"RPG samples {rival.costs[1] / sampling:.1f} times as fast as *{name}*."
        for row in PUBLISHED.get(self.ablation.experiment, ()):
            if row.best is not None:
                method = row.method.removesuffix(", published")
                yield (
                    f"Published for this network: {method}'s best one has {row.best} of the originals' {row.original}"
                    f" ({SOURCES[RPG]})."
                )

    def _rank(self, contender: Contender, key: Set) -> float:
        return self.kind.rank(contender.scored.sets[key].validation.rpg.mean)


def _reads(generator: AnyPeer | None, layout: Layout) -> str:
    """Return what a generator reads at sampling; without BatchNorm there is nothing to count."""
    if generator and getattr(generator, "candidates", 1) > 1:
        return "images, labels"
    counted = generator and generator.recount and any(of.name.endswith("running_mean") for of in layout.tensors)
    return "images" if counted else "-"


def comparisons(params: Params) -> list[str]:
    """Return the ablations whose variants are generators."""
    return [name for name, ablation in params.ablations.items() if ablation.peers]


def comparisons_of(params: Params, experiment: str) -> list[str]:
    """Return the ablations of an experiment whose variants are generators."""
    return [name for name in comparisons(params) if params.ablation(name).experiment == experiment]


def title_of(params: Params, name: str) -> str:
    """Return the title of a comparison: its experiment, and its own name if the experiment has an earlier one."""
    experiment = params.ablation(name).experiment
    return experiment if comparisons_of(params, experiment)[0] == name else f"{experiment}: {name}"


def write_peers(params: Params, results: Path) -> None:
    """Write peers.md and peers.json; UserError if an ablation is missing."""
    text, data = [HEADING], {}
    for name in comparisons(params):
        comparison = Comparison(params, name, results)
        methods = dict(comparison.methods())
        text.append(comparison.section(methods))
        data[name] = [
            {"method": method, "group": group, "mean": of.mean, "distance": of.distance, "verdict": of.verdict}
            for (method, group), of in methods.items()
        ]
    write_text(results / PAGE, "\n".join(text))
    write_json(results / DATA, data)
