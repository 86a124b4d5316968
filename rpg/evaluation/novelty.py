"""Tell whether samples are new: `rpg novelty --experiment digits-vit`.

Writes novelty.json, the summary, and novelty.csv, one row per network: RPG's samples, the originals they learned from,
and what can be made of the same zoo without RPG (rpg.evaluation: interpolation, baselines). Of each network:

    distance      to the nearest checkpoint of the zoo other than itself
    aligned       the same after permuting the units of each seed's checkpoints to match the network's
    from_zoo      `aligned` where it was measured, else `distance`, which is never less: ways are compared by this
    residual      to the nearest affine combination of the zoo's checkpoints, aligned; an average of some has none
    iou           of its wrong answers and those of the nearest original for its task: both wrong / either wrong
    disagreement  with that original: percent of the test images on which they answer differently

The critique that asks for these numbers is arXiv 2506.07998.
"""

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpg.config.experiment import Experiment
from rpg.evaluation.alignment import groups
from rpg.evaluation.baselines import formulas
from rpg.evaluation.geometry import Space, ZooPoints
from rpg.evaluation.interpolation import mixtures
from rpg.evaluation.score import read_answers, read_samples, summary
from rpg.paths import Paths
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.utils.errors import UserError
from rpg.utils.files import check_unchanged, file_entry, write_sealed, write_text
from rpg.utils.progress import progress
from rpg.zoo.manifest import read_zoo

# Shares of the distance between training runs: a mean of two checkpoints is at least half of it away from each, so
# what is nearer than COPY is one of them; NEAR is where a network trained anew would not be.
COPY, NEAR = 0.25, 0.75
# What a combination of checkpoints explains: under this share of the distance to the nearest one is left.
COMBINED = 0.5
ACCURATE = 0.99
TAUS = (0.5, 1.0, 2.0, 4.0)
MEASURES = ("distance", "distance_across", "aligned", "aligned_across", "residual", "iou", "disagreement")


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network to be measured; `index` is its place among the checkpoints that RPG learned from, if it is one."""

    kind: str
    code: str | None
    state: int
    point_P: np.ndarray
    # The set of networks that it belongs to (rpg.evaluation.score.SETS).
    set: str
    # Empty where the task scores networks without answers: then nothing is said of wrong ones.
    answers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    # On the test split, in percent.
    score: float = math.nan
    file: str = ""
    index: int | None = None
    # The permutation states that it lies between, if there are several.
    between: tuple[int, ...] = ()


class NoveltyAnalysis:
    """The zoo, the samples and the test split of one experiment."""

    def __init__(self, experiment: Experiment, paths: Paths, data_root: str | None) -> None:
        """Read everything; UserError if something is missing or was changed."""
        self.experiment, self.paths, self.params = experiment, paths, experiment.novelty
        self.store, self.kept = TokenStore(paths.folder("tokens")), paths.kept("novelty")
        self.task = load_task(experiment.task, data_root)
        _, self.names = read_zoo(paths.folder("zoo"))
        example = self.task.example
        self.space = Space(self.store.layout, [] if example is None else groups(self.task.network, example))
        checkpoints = self.store.checkpoints
        self.zoo = ZooPoints(
            self.space,
            np.stack([self.space.point(self.store[index]) for index in range(len(checkpoints))]),
            np.array([self.store.state(entry) for entry in checkpoints]),
            np.array([entry.get("code", "") for entry in checkpoints]),
        )
        self.known = read_answers(paths)
        self.originals = [
            self.read("original", paths.folder("zoo"), entry, index) for index, entry in enumerate(checkpoints)
        ]
        self.held_out = [self.read("original", paths.folder("zoo"), entry) for entry in self.store.held_out]
        manifest = read_samples(paths.folder("sample"), len(self.store.seeds))
        drawn: list[tuple[str, dict[str, Any]]] = []
        for model in dict.fromkeys(entry["model"] for entry in manifest):
            kind = "RPG" if model == "rpg" else model
            by_set: dict[str, list[dict[str, Any]]] = {}
            for entry in manifest:
                if entry["model"] == model:
                    by_set.setdefault(entry["set"], []).append(entry)
            for entry in [entry for entries in by_set.values() for entry in self.draw(entries, len(by_set))]:
                check_unchanged(paths.folder("sample"), entry["file"], entry["sha256"], "sampled", "`rpg sample`")
                drawn.append((kind, entry))
        self.samples = [self.read(kind, paths.folder("sample"), entry) for kind, entry in drawn]
        self.ours = [sample for sample in self.samples if sample.kind == "RPG"]

    def draw(self, entries: Sequence[Any], parts: int = 1) -> list[Any]:
        """At most `novelty.networks` of `entries`, or that by `parts`, drawn at random, in their order."""
        count = min(max(1, self.params.networks // parts), len(entries))
        chosen = random.Random(self.params.seed).sample(range(len(entries)), count)
        return [entries[index] for index in sorted(chosen)]

    def read(self, kind: str, folder: Path, entry: dict[str, Any], index: int | None = None) -> MeasuredNetwork:
        """The network in a file of the zoo or of the samples, with what the score stage found of it.

        UserError if it is not the network that the score stage found it of.
        """
        path = folder / entry["file"]
        state, code = entry["state"] if "state" in entry else self.store.state(entry), entry.get("code")
        if index is None:
            state_dict = read_checkpoint(path, self.names)
            made = "`rpg zoo`" if kind == "original" else "`rpg train` and `rpg sample`"
            self.store.layout.check(state_dict, path, made)
            point_P = self.space.point(self.store.tokenize(state_dict, state))
        else:
            point_P = self.zoo.points_NP[index]
        if entry["sha256"] not in self.known:
            raise UserError(f"{self.paths.file('score.scores')}: knows nothing of {path}; run `rpg score` again")
        score, answers = self.known[entry["sha256"]]
        if len(answers) not in (0, len(self.task.targets("test", code))):
            raise UserError(f"{self.paths.file('score.answers')}: answers to another data set; run `rpg score` again")
        belongs, between = entry.get("set") or self.store.task_set(state, code), tuple(entry.get("between", ()))
        facts = {"file": entry["file"], "index": index, "between": between}
        return MeasuredNetwork(kind, code, state, point_P, belongs, answers.numpy(), score, **facts)

    def at(self, kind: str, state: int, code: str | None, point_P: np.ndarray) -> tuple[MeasuredNetwork, StateDict]:
        """The network at a point, to be judged, and its weights."""
        weights = self.store.detokenize(self.space.tokens(point_P).unsqueeze(0), torch.tensor([state]))
        return MeasuredNetwork(kind, code, state, point_P, self.store.task_set(state, code)), unstack(weights)[0]

    def judged(self, networks: Iterator[tuple[MeasuredNetwork, StateDict]]) -> Iterator[MeasuredNetwork]:
        """The networks with their answers and scores."""
        while part := list(islice(networks, self.task.judge_batch)):
            unjudged, state_dicts = zip(*part, strict=True)
            codes = [network.code for network in unjudged]
            found = self.task.judge_all(state_dicts, "test", codes, self.kept, main_only=True)
            for network, of in zip(unjudged, found, strict=True):
                yield replace(network, answers=of.answers.numpy(), score=of.scores[self.task.metric])

    def wrong(self, network: MeasuredNetwork) -> np.ndarray:
        """[n] bool: which of the network's answers on the test split are wrong."""
        return network.answers != self.task.targets("test", network.code).numpy()

    def others(self) -> Iterator[MeasuredNetwork]:
        """What can be made of the zoo without RPG, for the same states and codes as the samples."""
        return self.judged(self._others())

    def _others(self) -> Iterator[tuple[MeasuredNetwork, StateDict]]:
        wishes = [(sample.state, sample.code) for sample in self.ours if not sample.between]
        for kind, state, code, point_P in mixtures(self.zoo, wishes, self.params.noise, self.params.seed):
            yield self.at(kind, state, code, point_P)
        if self.experiment.task.has_codes:
            for kind, formula in formulas(self.store).items():
                for state, code in dict.fromkeys(wishes):
                    yield self.at(kind, state, code, self.space.point(formula(state, code or "")))

    def row(self, network: MeasuredNetwork) -> dict[str, Any]:
        """The line of novelty.csv. Units are aligned, and originals' answers compared, for RPG and the originals alone.

        An original is compared with those of other training runs.
        """
        main = network.kind in ("original", "RPG")
        row: dict[str, Any] = {
            "networks": network.kind,
            "file": network.file,
            "code": network.code or "",
            "set": network.set,
            # What belongs together: the networks of one task, or, where there is but one, of one seed.
            "run": network.code or str(network.between or network.state),
            "test": network.score,
            **self.zoo.measure(network.point_P, but=network.index, align=main),
        }
        row["from_zoo"] = row.get("aligned", row.get("distance"))
        row["nearest"] = self.store.checkpoints[row["nearest"]]["file"] if "nearest" in row else ""
        rivals = [
            other
            for other in [*self.originals, *self.held_out]
            if main and other.code == network.code and not (network.kind == "original" and other.state == network.state)
        ]
        if rivals and len(network.answers):
            nearest = min(rivals, key=lambda other: float(np.square(other.point_P - network.point_P).sum()))
            row["iou"] = iou(self.wrong(network), self.wrong(nearest))
            row["disagreement"] = 100 * float((network.answers != nearest.answers).mean())
        return row

    def ensembles(self, between: bool) -> dict[str, float | int]:
        """Accuracy of a plurality vote of samples, and of as many originals for the same task, of all runs in turn.

        Of the samples those that are, or are not, `between` permutation states. Means over the tasks that have two
        samples and two originals or more; empty if there are none.
        """
        originals: dict[str | None, dict[int, list[MeasuredNetwork]]] = {}
        for network in [*self.originals, *self.held_out]:
            originals.setdefault(network.code, {}).setdefault(network.state, []).append(network)
        rows = []
        ours = [sample for sample in self.ours if bool(sample.between) is between and len(sample.answers)]
        for code in dict.fromkeys(sample.code for sample in ours):
            # The last save of each run, then the one before it.
            rounds = zip_longest(*(reversed(run) for run in originals.get(code, {}).values()))
            in_turn = [network for one_round in rounds for network in one_round if network]
            samples = [sample for sample in ours if sample.code == code]
            count = min(len(samples), len(in_turn))
            if count > 1:
                row: dict[str, float] = {"networks": count, "tasks": 1}
                for name, networks in (("rpg", samples[:count]), ("original", in_turn[:count])):
                    voted = replace(networks[0], answers=vote([each.answers for each in networks]))
                    row[name] = 100 * float(1 - self.wrong(voted).mean())
                rows.append(row)
        means = {str(name): round(float(value), 4) for name, value in pd.DataFrame(rows).mean().items()}
        return {**means, "tasks": len(rows)} if rows else {}


def vote(answers: Sequence[np.ndarray]) -> np.ndarray:
    """[n] the answer that most of the networks give; of several, the smallest, and -1 where none gives one."""
    stacked_En = np.stack(answers)
    counts_Kn = np.stack([(stacked_En == answer).sum(0) for answer in range(max(stacked_En.max() + 1, 1))])
    return np.where(counts_Kn.any(0), counts_Kn.argmax(0), -1)


def iou(wrong: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two sets of wrong answers, bool [n] each; 1 if neither has any."""
    either = (wrong | other).sum()
    return float((wrong & other).sum() / either) if either else 1.0


def verdict(networks: pd.DataFrame, originals: pd.DataFrame) -> str:
    """What the networks are, by medians: `aligned` d, `residual` r, and u, d of the originals to other training runs.

    replica        d < COPY · u: a checkpoint, or one of its run
    interpolation  r < COMBINED · d: most of the way from the nearest checkpoint is a combination of checkpoints
    replica        d < NEAR · u: a checkpoint with something added
    inaccurate     their mean accuracy is not ACCURATE of the originals'
    novel          otherwise: as far from the zoo as another training run is, not combined of it, and accurate

    Where there is only one run, u is the originals' distance to each other; without that there is no verdict.
    """
    d, r, u = networks["aligned"].median(), networks["residual"].median(), apart(originals)
    if np.isnan(u):
        return "none"
    if d < COPY * u:
        return "replica"
    if r < COMBINED * d:
        return "interpolation"
    if d < NEAR * u:
        return "replica"
    return "novel" if networks["test"].mean() >= ACCURATE * originals["test"].mean() else "inaccurate"


def apart(originals: pd.DataFrame) -> float:
    """The originals' median aligned distance to other training runs, or, where there is one, to each other."""
    across = originals.get("aligned_across", pd.Series(dtype=float))
    return float((across if across.notna().any() else originals["aligned"]).median())


def summarise(rows: pd.DataFrame) -> dict[str, Any]:
    """novelty.json from the rows of novelty.csv: each kind of networks, for each set of tasks alone.

    `zoo` holds medians of the originals' columns, `median` those of the samples'. `distance` is the median of
    `from_zoo` in units of the zoo's own distance, `novel`, for each τ, the fraction of the networks that have ACCURATE
    of the originals' mean accuracy and are farther than τ of these units.
    """
    kinds = dict(iter(rows.groupby("networks", sort=False)))
    originals = kinds.pop("original")
    unit, enough = originals["distance"].median(), ACCURATE * originals["test"].mean()

    def method(networks: pd.DataFrame) -> dict[str, Any]:
        accurate = networks["test"] >= enough
        novel = {str(tau): float((accurate & (networks["from_zoo"] > tau * unit)).mean()) for tau in TAUS}
        return {
            **summary(networks["test"].tolist(), networks["run"].tolist()),
            "distance": round(float(networks["from_zoo"].median() / unit), 4),
            "novel": {tau: round(share, 4) for tau, share in novel.items()},
        }

    def by_set(networks: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {name: networks[networks["set"] == name] for name in networks["set"].unique()}

    def medians(networks: pd.DataFrame) -> dict[str, float]:
        found = networks[[name for name in MEASURES if name in networks]].median().dropna()
        return {str(name): round(float(value), 6) for name, value in found.items()}

    return {
        "rule": {"copy": COPY, "near": NEAR, "combined": COMBINED, "accurate": ACCURATE},
        "zoo": medians(originals),
        "rpg": {
            name: {"verdict": verdict(chosen, originals), "median": medians(chosen), **method(chosen)}
            for name, chosen in by_set(kinds.pop("RPG")).items()
        },
        "original": method(originals),
        "baselines": {
            kind: {name: method(chosen) for name, chosen in by_set(networks).items()}
            for kind, networks in kinds.items()
        },
    }


def measure_novelty(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Measure originals, samples and what can be made of the zoo without RPG; write novelty.json and novelty.csv."""
    novelty = NoveltyAnalysis(experiment, paths, data_root)
    main = [*novelty.draw(novelty.originals), *novelty.samples]
    networks = chain(progress(main, "novelty", total=len(main)), novelty.others())
    rows = pd.DataFrame([novelty.row(network) for network in networks])
    write_text(paths.file("novelty.rows"), rows.round(6).to_csv(index=False))
    groups_of_units = len(novelty.space.groups)
    tree = {**summarise(rows), "groups_of_units": groups_of_units}
    for name in tree["rpg"]:
        # A vote on a task needs several networks of it, which a set of many tasks seldom has.
        if name in ("all", "between"):
            tree["rpg"][name]["ensemble"] = novelty.ensembles(name == "between")
    write_sealed(paths.file("novelty.summary"), {**tree, "files": [file_entry(paths.file("novelty.rows"))]})
    shutil.rmtree(novelty.kept, ignore_errors=True)
