"""Measure the novelty of samples: `rpg novelty --experiment digits-vit`.

Writes novelty.json, the summary, and novelty.csv with one row per network: RPG's samples, the originals, and networks
made from the same zoo without RPG (rpg.evaluation: interpolation, baselines). The columns of a network:

    distance      distance to the nearest checkpoint of the zoo, other than the network itself
    aligned       `distance` after permuting the units of each seed's checkpoints to match the network
    relative      score / mean score of the originals for the same task, or its inverse if lower is better; NaN if
                  either is not positive (rpg.utils.metric)
    from_zoo      `aligned` of originals and samples, `distance`, which is never smaller, of others; compares methods
    residual      distance to the nearest affine combination of the aligned checkpoints; 0 for an average of them
    iou           wrong answers of both the network and the nearest original for its task / wrong answers of either
    disagreement  percent of the test images on which the network and this original answer differently

The critique in arXiv 2506.07998 motivates these measures.
"""

import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from rpg.config.experiment import Experiment, FineTune
from rpg.evaluation.distance import ZooDistance, zoo_points
from rpg.evaluation.fine_tuned import fine_tuned
from rpg.evaluation.geometry import mapped
from rpg.evaluation.interpolation import mixtures
from rpg.evaluation.question_baselines import formulas_of
from rpg.evaluation.results import Verdict
from rpg.evaluation.score import read_answers, read_samples, summary
from rpg.evaluation.symmetries import find_space, list_symmetries
from rpg.generator.manifest import Sampled
from rpg.paths import Paths
from rpg.sources import code_digest
from rpg.tasks.loading import differentiable, load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.utils.errors import UserError
from rpg.utils.files import check_unchanged, file_entry, write_sealed, write_text
from rpg.utils.metric import PERCENT, MetricKind
from rpg.utils.progress import progress
from rpg.utils.rng import derive
from rpg.zoo.manifest import Checkpoint, read_zoo

# Thresholds as shares of the distance between training runs. A mean of two checkpoints is at least half of this
# distance away from each, so a network nearer than COPY is a copy of one. A newly trained network would not be nearer
# than NEAR.
COPY, NEAR = 0.25, 0.75
# A combination of checkpoints explains a network if the residual is under this share of the distance to the nearest.
COMBINED = 0.5
ACCURATE = 0.99
# In standard deviations of a tensor's weights. Noise of this size leaves every network of the default experiments as
# accurate as it was (rows `noise 0.05` of the tables), so that runs nearer than this give no scale.
FLOOR = 0.05
# The number of noisy checkpoints in the test of a distance, and of aligned networks per kind and set of baselines.
NOISY, ALIGNED = 8, 4
# Steps of the search for a noise level.
HALVINGS = 10
# The kind of originals of a run that is held out as a whole.
UNSEEN = "held-out run"
# The mixtures that `novelty.fine_tune` trains.
FINE_TUNED = ("interpolation across", "mean across")
TAUS = (0.5, 1.0, 2.0, 4.0)
MEASURES = ("distance", "distance_across", "aligned", "aligned_across", "residual", "iou", "disagreement")

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network to measure; `index` is its index in the token store if it is a checkpoint that RPG learned from."""

    kind: str
    code: str | None
    state: int
    point_P: np.ndarray
    # The set of networks (a key of rpg.evaluation.score.SETS).
    set: str
    # Empty for a task that scores networks without answers; then `iou` and `disagreement` are absent.
    answers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    # The score on the test split.
    score: float = math.nan
    file: str = ""
    index: int | None = None
    # The permutation states that a mixed network lies between.
    between: tuple[int, ...] = ()


class NoveltyAnalysis:
    """The zoo, the samples and the test split of one experiment."""

    def __init__(self, experiment: Experiment, paths: Paths, data_root: str | None) -> None:
        """Read zoo, samples and scores; UserError if a file is missing or changed."""
        self.experiment, self.paths, self.params = experiment, paths, experiment.novelty
        self.store = TokenStore(paths.folder("tokens"))
        # Answers that older code gave are in another folder.
        self.kept = paths.kept("novelty") / code_digest("novelty", experiment.task)[:16]
        self.task = load_task(experiment.task, data_root)
        _, self.names = read_zoo(paths.folder("zoo"))
        self.space = find_space(self.task, self.store.layout, self.store.stats)
        checkpoints = self.store.checkpoints
        self.zoo = zoo_points(self.store, self.space, self.kept)
        if not experiment.task.has_score:
            self.task.refer(ZooDistance(self.store, self.zoo))
        self._canonical: dict[str, np.ndarray] = {}
        self.scored = read_answers(paths)
        self.originals = [
            self.read_network("original", paths.folder("zoo"), entry, index) for index, entry in enumerate(checkpoints)
        ]
        self.held_out = [self.read_network("original", paths.folder("zoo"), entry) for entry in self.store.held_out]
        # Runs that RPG never saw, in no state: what a distance from the zoo is for a network that is new.
        self.unseen = [replace(one, kind=UNSEEN) for one in self.held_out if one.state >= len(self.store.seeds)]
        manifest = read_samples(paths.folder("sample"), len(self.store.seeds))
        drawn: list[tuple[str, Sampled]] = []
        for model in dict.fromkeys(sample.model for sample in manifest):
            kind = "RPG" if model == "rpg" else model
            by_set: dict[str, list[Sampled]] = {}
            for sample in manifest:
                if sample.model == model:
                    by_set.setdefault(sample.set, []).append(sample)
            for sample in [sample for samples in by_set.values() for sample in self.draw(samples, len(by_set))]:
                check_unchanged(paths.folder("sample"), sample.file, sample.sha256, "sampled", "`rpg sample`")
                drawn.append((kind, sample))
        self._accuracies: dict[str | None, float] = {}
        self.samples = [self.read_network(kind, paths.folder("sample"), sample) for kind, sample in drawn]
        self.rpg_samples = [sample for sample in self.samples if sample.kind == "RPG"]

    def draw(self, entries: Sequence[Drawn], parts: int = 1) -> list[Drawn]:
        """Draw at most `novelty.networks` / `parts` of `entries` at random; keep their order."""
        count = min(max(1, self.params.networks // parts), len(entries))
        chosen = random.Random(self.params.seed).sample(range(len(entries)), count)
        return [entries[index] for index in sorted(chosen)]

    def read_network(
        self, kind: str, folder: Path, entry: Checkpoint | Sampled, index: int | None = None
    ) -> MeasuredNetwork:
        """Read a network of the zoo or of the samples, with its score and answers from the score stage.

        Raises UserError if the score stage scored another network or another data set.
        """
        path, code = folder / entry.file, entry.code
        state = entry.state if isinstance(entry, Sampled) else self.store.state(entry)
        if index is None:
            state_dict = read_checkpoint(path, self.names)
            command = "`rpg zoo`" if kind == "original" else "`rpg train` and `rpg sample`"
            self.store.layout.check(state_dict, path, command)
            point_P = mapped([self.space.point(self.store.tokenize(state_dict, state))], self.kept)[0]
        else:
            point_P = self.zoo.points_NP[index]
        if entry.sha256 not in self.scored:
            raise UserError(f"{self.paths.file('score.scores')}: has no score of {path}; run `rpg score` again")
        score, answers = self.scored[entry.sha256]
        if len(answers) not in (0, len(self.task.targets("test", code))):
            raise UserError(f"{self.paths.file('score.answers')}: answers to another data set; run `rpg score` again")
        task_set = entry.set if isinstance(entry, Sampled) else self.store.task_set(state, code)
        between = tuple(entry.between) if isinstance(entry, Sampled) else ()
        return MeasuredNetwork(
            kind, code, state, point_P, task_set, answers.numpy(), score, entry.file, index=index, between=between
        )

    def network_at(
        self, kind: str, state: int, code: str | None, point_P: np.ndarray
    ) -> tuple[MeasuredNetwork, StateDict]:
        """Return the network at a point, without score and answers, and its weights."""
        weights = self.store.detokenize(self.space.tokens(point_P).unsqueeze(0), torch.tensor([state]))
        return MeasuredNetwork(kind, code, state, point_P, self.store.task_set(state, code)), unstack(weights)[0]

    def judge(self, networks: Iterator[tuple[MeasuredNetwork, StateDict]]) -> Iterator[MeasuredNetwork]:
        """Yield the networks with their answers and scores on the test split."""
        while part := list(islice(networks, self.task.judge_batch)):
            unjudged, state_dicts = zip(*part, strict=True)
            codes = [network.code for network in unjudged]
            judgments = self.task.judge_all(state_dicts, "test", codes, self.kept, main_only=True)
            for network, judgment in zip(unjudged, judgments, strict=True):
                yield replace(network, answers=judgment.answers.numpy(), score=judgment.scores[self.task.metric])

    def wrong(self, network: MeasuredNetwork) -> np.ndarray:
        """Return [n] bool: whether each of the network's answers on the test split is wrong."""
        return network.answers != self.task.targets("test", network.code).numpy()

    def baselines(self) -> Iterator[MeasuredNetwork]:
        """Yield networks made from the zoo without RPG, for the states and codes of the samples."""
        return self.judge(self._baselines())

    def _baselines(self) -> Iterator[tuple[MeasuredNetwork, StateDict]]:
        requests = [(sample.state, sample.code) for sample in self.rpg_samples if not sample.between]
        mixed: dict[str, list[tuple[MeasuredNetwork, StateDict]]] = {}
        for kind, state, code, point_P in mixtures(self.zoo, requests, self.params.noise, self.params.seed):
            network = self.network_at(kind, state, code, point_P)
            if kind in FINE_TUNED:
                mixed.setdefault(kind, []).append(network)
            yield network
        if self.params.fine_tune:
            yield from self._fine_tuned(mixed, self.params.fine_tune)
        if self.experiment.task.has_codes:
            for kind, formula in formulas_of(self.experiment, self.task, self.store).items():
                for state, code in dict.fromkeys(requests):
                    yield self.network_at(kind, state, code, self.space.point(formula(state, code or "")))

    def _fine_tuned(
        self, mixed: dict[str, list[tuple[MeasuredNetwork, StateDict]]], params: FineTune
    ) -> Iterator[tuple[MeasuredNetwork, StateDict]]:
        """Yield the mixtures of each kind after training on the task loss."""
        task = differentiable(self.task)
        if not task:
            raise UserError("params.yaml: novelty.fine_tune: the task has no differentiable loss; remove the block")
        for kind, networks in mixed.items():
            before, state_dicts = zip(*networks, strict=True)
            after = fine_tuned(task, state_dicts, [network.code for network in before], params)
            for network, state_dict in zip(before, after, strict=True):
                point_P = self.space.point(self.store.tokenize(state_dict, network.state))
                yield replace(network, kind=f"{kind}, fine-tuned", point_P=point_P), state_dict

    def row(self, network: MeasuredNetwork) -> dict[str, Any]:
        """Return the network's row of novelty.csv.

        Only RPG's samples and originals have aligned distances and a comparison of answers. An original is compared
        with originals of other training runs.
        """
        main = network.kind in ("original", "RPG", UNSEEN)
        row: dict[str, Any] = {
            "networks": network.kind,
            "file": network.file,
            "code": network.code or "",
            "set": network.set,
            # The group of dependent networks: all of one task, or, without task codes, all of one seed.
            "run": network.code or str(network.between or network.state),
            "test": network.score,
            "relative": self.relative(network),
            **self.zoo.measure(network.point_P, own_index=network.index, align=main),
        }
        row["from_zoo"] = row.get("aligned", row.get("distance"))
        row["nearest"] = self.store.checkpoints[row["nearest"]].file if "nearest" in row else ""
        rivals = [
            other
            for other in [*self.originals, *self.held_out]
            if main and other.code == network.code and (network.kind == "RPG" or other.state != network.state)
        ]
        if rivals and len(network.answers):
            own_P = self.canonical(network)
            nearest = min(rivals, key=lambda other: self.zoo.separation(self.canonical(other), own_P))
            row["iou"] = iou(self.wrong(network), self.wrong(nearest))
            row["disagreement"] = 100 * float((network.answers != nearest.answers).mean())
        return row

    def relative(self, network: MeasuredNetwork) -> float:
        """Return a network's score as a share of that of the originals for the same task; NaN if there is no share.

        A distance from the zoo is no share of the originals' distance, which is 0.
        """
        if not self.experiment.task.has_score:
            return math.nan
        return self.experiment.task.metric_kind.relative(network.score, self.accuracy(network.code))

    def accuracy(self, code: str | None) -> float:
        """Return the mean score of the originals for the task of `code`, held-out originals included."""
        if code not in self._accuracies:
            originals = [*self.originals, *self.held_out]
            same = [network.score for network in originals if network.code == code]
            # A zoo of one's own may lack the originals of a code.
            self._accuracies[code] = float(np.mean(same or [network.score for network in originals]))
        return self._accuracies[code]

    def rows(self) -> pd.DataFrame:
        """Return novelty.csv: the rows of originals, samples and baselines.

        A few networks of each rival and set get aligned distances, where a verdict needs them.
        """
        main = [*self.draw(self.originals), *self.draw(self.unseen), *self.rpg_samples]
        rows = [self.row(network) for network in progress(main, "novelty", total=len(main))]
        near = COPY * run_distance(pd.DataFrame([row for row in rows if row["networks"] == "original"]))
        aligned: dict[tuple[str, str], int] = {}
        others = (sample for sample in self.samples if sample.kind != "RPG")
        for network in chain(others, self.baselines()):
            row = self.row(network)
            key = network.kind, network.set
            # The first networks of each kind and set, whether near or far, so that the verdict is on all of them.
            if "distance" in row and aligned.setdefault(key, 0) < ALIGNED:
                aligned[key] += 1
                if row["distance"] >= near:
                    row |= self.zoo.measure(network.point_P)
                    row["nearest"] = self.store.checkpoints[row["nearest"]].file
                else:
                    # Alignment only shortens a distance, so a near network needs none.
                    row["aligned"] = row["distance"]
            rows.append(row)
        return pd.DataFrame(rows)

    def noise_keeps(self, distance: float) -> float:
        """Return the mean relative accuracy of NOISY checkpoints plus noise of a root mean square of `distance`.

        It is NaN if one of them has none.
        """
        draw = np.random.default_rng(derive(self.params.seed, "noise test"))
        chosen = [self.originals[index] for index in draw.integers(len(self.originals), size=NOISY)]
        noises = [draw.standard_normal(len(one.point_P)) for one in chosen]

        def reached(level: float) -> float:
            moved = zip(chosen, noises, strict=True)
            points = (
                (self.canonical(one), self.zoo.canonical(one.point_P + level * noise_P)) for one, noise_P in moved
            )
            return float(np.median([self.zoo.separation(*both) for both in points]))

        # Distances are between canonical points, where noise of the same level may be larger or smaller.
        low, high = 0.0, 2 * distance
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if reached(middle) < distance else (low, middle)
        noisy = (
            self.network_at("noise", one.state, one.code, one.point_P + high * noise_P)
            for one, noise_P in zip(chosen, noises, strict=True)
        )
        return float(np.mean([self.relative(network) for network in self.judge(noisy)]))

    def canonical(self, network: MeasuredNetwork) -> np.ndarray:
        """Return the canonical point of an original or a sample; it is computed once."""
        if network.index is not None:
            return self.zoo.canonical_of(network.index)
        if network.file not in self._canonical:
            self._canonical[network.file] = mapped([self.zoo.canonical(network.point_P)], self.kept)[0]
        return self._canonical[network.file]

    def ensembles(self, between: bool) -> dict[str, float | int]:
        """Return the accuracies of a plurality vote of samples and of equally many originals for the same task.

        The originals come from all training runs in turn. `between` selects the samples between permutation states, or
        the others. The result has means over all tasks with at least two samples and two originals, and is empty
        without such a task.
        """
        originals: dict[str | None, dict[int, list[MeasuredNetwork]]] = {}
        for network in [*self.originals, *self.held_out]:
            originals.setdefault(network.code, {}).setdefault(network.state, []).append(network)
        rows = []
        chosen = [sample for sample in self.rpg_samples if bool(sample.between) is between and len(sample.answers)]
        for code in dict.fromkeys(sample.code for sample in chosen):
            # First the last save of each run, then each run's save before it, and so on.
            rounds = zip_longest(*(reversed(run) for run in originals.get(code, {}).values()))
            in_turn = [network for one_round in rounds for network in one_round if network]
            samples = [sample for sample in chosen if sample.code == code]
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
    """Return the most frequent answers [n]: the smallest of equally frequent ones, -1 without any answer."""
    stacked_En = np.stack(answers)
    counts_Kn = np.stack([(stacked_En == answer).sum(0) for answer in range(max(stacked_En.max() + 1, 1))])
    return np.where(counts_Kn.any(0), counts_Kn.argmax(0), -1)


def iou(wrong: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two sets of wrong answers, bool [n] each; 1 if both are empty."""
    either = (wrong | other).sum()
    return float((wrong & other).sum() / either) if either else 1.0


def verdict(networks: pd.DataFrame, originals: pd.DataFrame, noise_keeps: Callable[[float], float]) -> Verdict:
    """Return the verdict on the networks; the first matching rule decides.

    The rules use medians: d of `aligned`, r of `residual`, and u, the originals' d to other training runs. `relative`
    is a network's accuracy, divided by that of the originals for the same task. `noise_keeps` returns the mean
    `relative` of checkpoints plus noise of a given distance.

    one run        the zoo has a single training run, so there is no u
    no scale       u < FLOOR: the runs are nearer to each other than noise that changes nothing
    replica        d < COPY · u: a copy of a checkpoint, or of another save of the checkpoint's run
    interpolation  r < COMBINED · d: a combination of checkpoints explains most of the distance
    replica        d < NEAR · u: a checkpoint plus a small difference
    no scale       a network, or a checkpoint plus noise of the distance d, has no `relative`
    inaccurate     the mean of `relative` is under ACCURATE
    as noise       checkpoints plus noise of the distance d are as accurate as the networks, or as the checkpoints
                   were (noise on the best run would be above the mean of all), so the distance proves nothing
    novel          otherwise: as far from the zoo as another training run, no combination of checkpoints, and accurate
    """
    d, r, u = networks["distance"].median(), np.nan, run_distance(originals)
    if np.isnan(u):
        return "one run"
    if u < FLOOR:
        return "no scale"
    if "aligned" in networks and networks["aligned"].notna().any():
        d, r = networks["aligned"].median(), networks["residual"].median()
    if d < COPY * u:
        return "replica"
    if r < COMBINED * d:
        return "interpolation"
    if d < NEAR * u:
        return "replica"
    relative = networks["relative"].mean(skipna=False)
    if np.isnan(relative):
        return "no scale"
    if relative < ACCURATE:
        return "inaccurate"
    kept = noise_keeps(float(d))
    if np.isnan(kept):
        return "no scale"
    return "as noise" if kept >= ACCURATE * min(relative, 1.0) else "novel"


def run_distance(originals: pd.DataFrame) -> float:
    """Return u, the originals' median aligned distance to other training runs; NaN if there is one run."""
    return float(originals.get("aligned_across", pd.Series(dtype=float)).median())


def summarize(
    rows: pd.DataFrame, noise_keeps: Callable[[float], float], metric_kind: MetricKind = PERCENT
) -> dict[str, Any]:
    """Return novelty.json from the rows of novelty.csv, with each method and each set of tasks apart.

    `noise_keeps` is an argument of `verdict`.

    `zoo` holds the medians of the originals' columns, `median` those of the samples' columns. `distance` is the median
    of `from_zoo` in units of the zoo's median distance. `novel` maps each τ to the fraction of networks that reach
    ACCURATE of the accuracy of the originals for the same task and are farther than τ units from the zoo. A network
    without `relative` counts as inaccurate there.
    """
    kinds = dict(iter(rows.groupby("networks", sort=False)))
    originals = kinds.pop("original")
    unit = originals["distance"].median()

    def summarize_method(networks: pd.DataFrame) -> dict[str, Any]:
        accurate = networks["relative"] >= ACCURATE
        novel = {str(tau): float((accurate & (networks["from_zoo"] > tau * unit)).mean()) for tau in TAUS}
        return {
            **summary(networks["test"].tolist(), networks["run"].tolist(), metric_kind=metric_kind),
            "verdict": verdict(networks, originals, noise_keeps) if networks is not originals else "original",
            "distance": round(float(networks["from_zoo"].median() / unit), 4),
            "novel": {tau: round(share, 4) for tau, share in novel.items()},
        }

    def by_set(networks: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {name: networks[networks["set"] == name] for name in networks["set"].unique()}

    def medians(networks: pd.DataFrame) -> dict[str, float]:
        values = networks[[name for name in MEASURES if name in networks]].median().dropna()
        return {str(name): round(float(value), 6) for name, value in values.items()}

    return {
        "rule": {"copy": COPY, "near": NEAR, "combined": COMBINED, "accurate": ACCURATE, "floor": FLOOR},
        "zoo": medians(originals),
        "rpg": {
            name: {"median": medians(chosen), **summarize_method(chosen)}
            for name, chosen in by_set(kinds.pop("RPG")).items()
        },
        "original": summarize_method(originals),
        "baselines": {
            kind: {name: summarize_method(chosen) for name, chosen in by_set(networks).items()}
            for kind, networks in kinds.items()
        },
    }


def measure_novelty(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Measure originals, samples and baselines; write novelty.json and novelty.csv.

    Raises UserError if the scores, samples or zoo are missing or changed.
    """
    novelty = NoveltyAnalysis(experiment, paths, data_root)
    rows, metric_kind = novelty.rows(), experiment.task.metric_kind
    rounded = rows.round(6)
    if not metric_kind.is_percent:
        # Six decimals would leave nothing of a small error.
        rounded["test"] = rows["test"].map(metric_kind.rounded)
    write_text(paths.file("novelty.rows"), rounded.to_csv(index=False))
    symmetries = list_symmetries(novelty.space, novelty.task)
    tree = {**summarize(rows, novelty.noise_keeps, metric_kind), "symmetries": symmetries.tree()}
    for name in tree["rpg"]:
        # A vote needs several networks of one task; a set of many tasks seldom has them.
        if name in ("all", "between"):
            tree["rpg"][name]["ensemble"] = novelty.ensembles(name == "between")
    write_sealed(paths.file("novelty.summary"), {**tree, "files": [file_entry(paths.file("novelty.rows"))]})
    shutil.rmtree(paths.kept("novelty"), ignore_errors=True)
