"""Compare asked numbers with those that the generated networks have: `rpg wanted --experiment digits-wanted`.

Writes wanted.csv (a row for each network), wanted.json (the summary) and wanted.md (the summary as tables).

The stage asks for each number of the block `wanted`, in each permutation state, and scores the networks on both splits.
RPG has seen checkpoints with such numbers of the *learned* states. It has seen only other checkpoints of the *held-out*
states, the last saves of their runs. With `tune.exchanged`, its tuning has asked for such scores of these states, on
training images, and of the *unasked* states not even that. *Between* states, RPG has seen no checkpoint. A `step` is
compared with the checkpoint that the state's run saved at this step.

`rpg_corrected` asks for another number in place of the wanted score: the one whose networks have the wanted score on
the validation split (`Correction`).

The baselines make networks of a wanted score for the held-out states without RPG. `nearest_checkpoint` copies the
checkpoint of a learned state with the nearest score. `noise` adds noise to the run's last checkpoint, and
`interpolation` mixes two saves of the run, until the score on the validation split is as asked. So `interpolation` has
the checkpoints that were held out, and both have the validation split's labels for each network.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from rpg.config.experiment import Experiment, Wanted
from rpg.evaluation.intervals import ScoreSample, mean_interval
from rpg.evaluation.results import Agreement
from rpg.generator.sample import sample_networks
from rpg.model.conditions import condition_name
from rpg.model.rpg import RPG as Generator
from rpg.paths import Paths
from rpg.tasks.base import DifferentiableTask
from rpg.tasks.loading import load_differentiable
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg, read_config
from rpg.training.wanted_scores import inverse_increasing
from rpg.utils.condition_requests import States
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.files import file_entry, read_tensors, verified_file, write_sealed, write_text
from rpg.utils.progress import progress
from rpg.utils.rng import generator
from rpg.zoo.manifest import Checkpoint, list_zoo

SPLITS = ("validation", "test")
RPG, CORRECTED, NEAREST, NOISE, INTERPOLATION = "rpg", "rpg_corrected", "nearest_checkpoint", "noise", "interpolation"
LEARNED, HELD_OUT, UNASKED, BETWEEN = "learned", "held_out", "unasked", "between"
# Bisections of the level of noise, and the largest level, in standard deviations of each tensor's weights.
BISECTIONS, MOST_NOISE = 12, 4.0
# A correction tries this many numbers, evenly over the zoo's range and this share of it to both sides.
GRID, ROOM = 24, 0.25
# The noise of the networks that the correction is fitted to; the others have seeds from 0.
FIT_SEEDS = (1_000_000, 1_000_001)
HEADING = """# Asked and got

Scores are {metric} in percent. The rank correlation is Spearman's, of asked numbers and scores. The error is the mean
distance of a score from the asked one, or, for a step, from the score of the checkpoint that the run saved at this
step. It is in points, with its 95 % interval over the states. The bias is the mean difference.

| asked | networks | states | n | correlation, validation | error | bias | correlation, test | error | bias |
|:--|:--|:--|--:|--:|--:|--:|--:|--:|--:|
"""
AT_HEADING = """| asked | aim, test | got, test | aim, validation | got, validation |
|--:|--:|--:|--:|--:|
"""


@dataclass(frozen=True)
class Asked:
    """A request: the name of a vector, its number, the permutation states, and the set of these states."""

    vector: str
    number: float
    states: States
    set: str


def asked(params: Wanted, sets: Sequence[str]) -> list[Asked]:
    """Return all requests: each number for each permutation state and for `between` pairs of them.

    `sets` names the set of each state. Half of the pairs have a state that is not learned, if there are enough.
    """
    draw = random.Random(params.seed)
    pairs = list(combinations(range(len(sets)), 2))
    draw.shuffle(pairs)
    pairs.sort(key=lambda pair: {sets[state] for state in pair} == {LEARNED})
    half = params.between // 2
    pairs = [*pairs[: params.between - half], *pairs[len(pairs) - half :]]
    places: list[tuple[States, str]] = [
        *(((state,), name) for state, name in enumerate(sets)),
        *((pair, BETWEEN) for pair in pairs),
    ]
    return [
        Asked(vector, float(number), chosen, name)
        for vector, numbers in params.requests.items()
        for number in numbers
        for chosen, name in places
    ]


class Correction:
    """Finds the number in a request whose network has the wanted score on the validation split.

    RPG makes networks for GRID numbers, of noise that no other network has. Their validation scores, as an increasing
    function of the number (isotonic regression), tell the number for each wanted score. No step reads test images.
    """

    def __init__(
        self,
        experiment: Experiment,
        task: DifferentiableTask,
        store: TokenStore,
        model: Generator,
        table: ConditionTable,
        vector: str,
    ) -> None:
        self.sample, self.precision = experiment.sample, experiment.train.precision
        self.task, self.store, self.model, self.table, self.vector = task, store, model, table, vector
        numbers = table.values[vector].flatten()
        room = ROOM * float(numbers.max() - numbers.min())
        self.range = float(numbers.min()) - room, float(numbers.max()) + room

    def numbers(self, states: States, wanted: Sequence[float]) -> list[float]:
        """Return the number to ask for in `states`, for each wanted score."""
        tried = np.linspace(*self.range, GRID)
        scores = []
        for seed in FIT_SEEDS:
            networks = self.networks(states, seed, tried.tolist())
            judged = self.task.judge_all(networks, "validation", [None] * len(networks))
            scores.append([one.scores[self.task.metric] for one in judged])
        return inverted(tried, np.mean(scores, axis=0), wanted)

    def networks(self, states: States, seed: int, numbers: Sequence[float]) -> list[StateDict]:
        """Return a network for each number in the request, all of the same noise."""
        draws = [generator(seed, "wanted", state) for state in states[:1]]
        values = self.table.requested([(states, None)], draws, {self.vector: [0.0]})
        values = {name: of.repeat(len(numbers), 1) for name, of in values.items()}
        values[self.vector] = torch.tensor(numbers).unsqueeze(1)
        tokens_BLD = self.model.sample(
            values,
            solver=self.sample.solver,
            steps=self.sample.steps,
            generators=[generator(seed, "sample", *states) for _ in numbers],
            temperature=self.sample.temperature,
            precision=self.precision,
        )
        return unstack(self.store.detokenize(tokens_BLD, torch.tensor([states[0]] * len(numbers))))


def inverted(numbers: np.ndarray, scores: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """Return the number for each wanted score, from the `scores` of networks for increasing `numbers`.

    Far above the zoo's range RPG's networks may answer at random, so numbers beyond that of the best score don't count.
    """
    end = int(scores.argmax()) + 1
    return np.interp(wanted, *inverse_increasing(numbers[:end].tolist(), scores[:end].tolist())).tolist()


class WantedScores:
    """The scores of networks on both splits, and the checkpoints to compare them with."""

    def __init__(self, experiment: Experiment, paths: Paths, data_root: str | None) -> None:
        assert experiment.wanted
        self.experiment, self.params, self.paths = experiment, experiment.wanted, paths
        self.task = load_differentiable(experiment.task, experiment.zoo, data_root)
        self.store = TokenStore(paths.folder("tokens"))
        self.field = f"validation_{self.task.metric}"
        self.checkpoints = list_zoo(paths.folder("zoo")).checkpoints
        held_out = {checkpoint.seed for checkpoint in self.store.held_out}
        tune = experiment.tune
        unasked = (tune.own_vectors if tune and tune.exchanged else None) or []
        self.sets = [
            LEARNED if seed not in held_out else UNASKED if seed in unasked else HELD_OUT for seed in self.store.seeds
        ]
        conditions = experiment.model.conditions
        self.fields = {condition_name(one): one.field for one in conditions if one.kind == "vector"}
        for name in self.params.requests:
            if name not in self.fields:
                raise UserError(f"params.yaml: wanted.requests: no vector '{name}'; known: {', '.join(self.fields)}")

    def scores(self, networks: Iterable[StateDict]) -> list[dict[str, float]]:
        """Return split → score of each network."""
        found: list[dict[str, float]] = []
        part: list[StateDict] = []
        for network in networks:
            part.append(network)
            if len(part) == self.task.judge_batch:
                found += self._judged(part)
                part = []
        return found + (self._judged(part) if part else [])

    def _judged(self, part: list[StateDict]) -> list[dict[str, float]]:
        by_split = {split: self.task.judge_all(part, split, [None] * len(part)) for split in SPLITS}
        return [
            {split: by_split[split][index].scores[self.task.metric] for split in SPLITS} for index in range(len(part))
        ]

    def rows_of_rpg(self) -> Iterator[dict[str, Any]]:
        """Yield the row of each network that RPG generates."""
        folder = self.paths.generator(self.experiment)
        model = load_rpg(folder, self.store, device())
        table = ConditionTable.of(read_config(folder).model.conditions, self.store)
        requests = asked(self.params, self.sets)
        yield from self._corrected(model, table)
        for index, one in enumerate(progress(requests, "wanted", total=len(requests))):
            networks = sample_networks(
                model,
                table,
                self.store,
                self.experiment.sample.model_copy(update={"seed": self.params.seed}),
                [(one.states, None)] * self.params.networks,
                {one.vector: [one.number]},
                first=index * self.params.networks,
                precision=self.experiment.train.precision,
            )
            for seed, scores in enumerate(self.scores(state_dict for state_dict, *_ in networks)):
                yield self._row(RPG, one, seed, scores)

    def _corrected(self, model: Generator, table: ConditionTable) -> Iterator[dict[str, Any]]:
        for name, numbers in self.params.requests.items():
            if self.fields[name] != self.field:
                continue
            correction = Correction(self.experiment, self.task, self.store, model, table, name)
            places = dict.fromkeys((one.states, one.set) for one in asked(self.params, self.sets))
            for states, of in progress(places, "wanted corrected", total=len(places)):
                found = correction.numbers(states, numbers)
                for seed in range(self.params.networks):
                    networks = correction.networks(states, seed, found)
                    for number, scores in zip(numbers, self.scores(networks), strict=True):
                        yield self._row(CORRECTED, Asked(name, float(number), states, of), seed, scores)

    def _row(self, method: str, one: Asked, seed: int, scores: dict[str, float]) -> dict[str, Any]:
        states = "+".join(map(str, one.states))
        row: dict[str, Any] = {
            "method": method, "vector": one.vector, "set": one.set, "states": states, "seed": seed,
            "asked": one.number,
        }  # fmt: skip
        if self.fields[one.vector] == self.field:
            return {**row, "aim_validation": one.number, "aim_test": one.number, **scores}
        saved = self._saved(one)
        return {**row, "aim_validation": saved["validation"], "aim_test": saved["test"], **scores}

    def _saved(self, one: Asked) -> dict[str, float]:
        """Return the mean scores of the checkpoints, one of each state, whose number is nearest to the asked one."""
        nearest = [
            min(self._run(state), key=lambda other: abs(self._number(other, one.vector) - one.number))
            for state in one.states
        ]
        scores = [self._scores_of(checkpoint) for checkpoint in nearest]
        return {split: float(np.mean([each[split] for each in scores])) for split in SPLITS}

    def _run(self, state: int) -> list[Checkpoint]:
        """Return all checkpoints of a state's run, by step, held out or not."""
        return [one for one in self.checkpoints if one.seed == self.store.seeds[state]]

    def _number(self, checkpoint: Checkpoint, vector: str) -> float:
        return (checkpoint.numbers(self.fields[vector]) or [np.nan])[0]

    def _read(self, checkpoint: Checkpoint) -> StateDict:
        return read_tensors(self.paths.folder("zoo") / checkpoint.file)

    def _scores_of(self, checkpoint: Checkpoint) -> dict[str, float]:
        if not hasattr(self, "_known"):
            self._known: dict[str, dict[str, float]] = {}
        if checkpoint.file not in self._known:
            self._known[checkpoint.file] = self.scores([self._read(checkpoint)])[0]
        return self._known[checkpoint.file]

    def rows_of_baselines(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the baselines, for each wanted score in each held-out state."""
        for name in self.params.requests:
            if self.fields[name] != self.field:
                continue
            for number in progress(
                self.params.requests[name], "wanted baselines", total=len(self.params.requests[name])
            ):
                held_out = [state for state, of in enumerate(self.sets) if of != LEARNED]
                for place, state in enumerate(held_out):
                    one = Asked(name, float(number), (state,), self.sets[state])
                    yield self._row(NEAREST, one, 0, self._scores_of(self._nearest(one.number, place)))
                    yield self._row(INTERPOLATION, one, 0, self.scores([self._interpolated(one)])[0])
                    for seed in range(self.params.networks):
                        yield self._row(NOISE, one, seed, self.scores([self._noisy(one, seed)])[0])

    def _nearest(self, score: float, place: int) -> Checkpoint:
        """Return the learned checkpoint whose validation score is the `place`-th nearest to `score`."""
        learned = [one for one in self.store.checkpoints if self.sets[self.store.state(one)] == LEARNED]
        return sorted(learned, key=lambda one: abs((one.numbers(self.field) or [np.nan])[0] - score))[place]

    def _validation(self, state_dict: StateDict) -> float:
        return self.task.score(state_dict, "validation", None)

    def _interpolated(self, one: Asked) -> StateDict:
        """Return a mixture of two consecutive saves around the asked score; its share is linear in their scores."""
        run = self._run(one.states[0])
        scores = [(each.numbers(self.field) or [np.nan])[0] for each in run]
        after = next((place for place, score in enumerate(scores) if score >= one.number), int(np.argmax(scores)))
        before = max(after - 1, 0)
        gap = scores[after] - scores[before]
        share = float(np.clip((one.number - scores[before]) / gap, 0, 1)) if gap > 0 else 1.0
        first, second = self._read(run[before]), self._read(run[after])
        return {
            name: torch.lerp(first[name], of, share) if of.is_floating_point() else of for name, of in second.items()
        }

    def _noisy(self, one: Asked, seed: int) -> StateDict:
        """Return the run's last checkpoint with as much noise as lowers its validation score to the asked one."""
        last = self._read(self._run(one.states[0])[-1])
        draw = generator(self.params.seed, "wanted noise", one.states[0], seed)
        noise = {name: torch.randn(of.shape, generator=draw) * of.std() for name, of in last.items() if of.numel() > 1}

        def at(level: float) -> StateDict:
            return {name: of + level * noise[name] if name in noise else of for name, of in last.items()}

        low, high = 0.0, MOST_NOISE
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._validation(at(middle)) > one.number else (low, middle)
        # The score is a step function of the level, and not quite a falling one.
        return at(min((low, high), key=lambda level: abs(self._validation(at(level)) - one.number)))


def summaries(rows: pd.DataFrame, most: float = 100.0) -> list[dict[str, Any]]:
    """Return the trees of `Agreement` of each method, vector and set.

    `correlation` is Spearman's rank correlation of the asked numbers with the scores, 0 if all scores are equal.
    `error` is the mean distance of a score from its aim, with the interval over the states (and, with a column
    `training`, over trainings). `bias` is the mean difference. `at` has the mean scores for each asked number.
    """
    found = []
    for (method, vector, name), part in rows.groupby(["method", "vector", "set"], sort=False):
        entry: dict[str, Any] = {"method": method, "vector": vector, "set": name, "n": len(part)}
        for split in SPLITS:
            errors = part[split] - part[f"aim_{split}"]
            trainings = part["training"].tolist() if "training" in part and part["training"].nunique() > 1 else []
            sample = ScoreSample(errors.abs().tolist(), part["states"].tolist(), trainings)
            interval = mean_interval(sample, most)
            varied = part[split].nunique() > 1
            entry[split] = {
                "correlation": round(float(spearmanr(part["asked"], part[split]).statistic), 4) if varied else 0.0,
                "error": round(float(errors.abs().mean()), 4),
                **({"interval": [round(bound, 4) for bound in interval]} if interval else {}),
                "bias": round(float(errors.mean()), 4),
                "at": [
                    {
                        "asked": float(of["asked"].iloc[0]),
                        "aim": round(float(of[f"aim_{split}"].mean()), 4),
                        "got": round(float(of[split].mean()), 4),
                        "std": round(float(of[split].std(ddof=0)), 4),
                    }
                    for _, of in part.groupby("asked")
                ],
            }
        found.append(entry)
    return found


def measure_wanted(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Write wanted.csv, wanted.md and, last, wanted.json; UserError if a request's vector is unknown."""
    scores = WantedScores(experiment, paths, data_root)
    rows = pd.DataFrame([*scores.rows_of_rpg(), *scores.rows_of_baselines()])
    write_text(paths.file("wanted.rows"), rows.round(4).to_csv(index=False))
    found = summaries(rows)
    write_text(paths.file("wanted.table"), table(list(map(Agreement.model_validate, found)), scores.task.metric))
    files = [file_entry(paths.file(f"wanted.{name}")) for name in ("rows", "table")]
    write_sealed(paths.file("wanted.summary"), {"metric": scores.task.metric, "summaries": found, "files": files})


def read_wanted(trials: Sequence[Paths]) -> list[dict[str, Any]]:
    """Return `summaries` over several trainings of one experiment; UserError if wanted.csv is missing or changed.

    The baselines are no trainings of RPG, so those of the first trial suffice.
    """
    frames = []
    for training, paths in enumerate(trials):
        command = f"rpg wanted --experiment {paths.experiment}"
        rows = pd.read_csv(
            verified_file(paths.file("wanted.rows"), paths.file("wanted.summary"), command), dtype={"states": str}
        )
        kept = rows if training == 0 else rows[rows["method"].isin((RPG, CORRECTED))]
        frames.append(kept.assign(training=training))
    return summaries(pd.concat(frames, ignore_index=True))


def table(found: Sequence[Agreement], metric: str) -> str:
    """Return the summaries as Markdown: one table of the agreement, one of the scores at each asked number."""
    text = [HEADING.format(metric=metric)]
    for one in found:
        cells = [one.vector, one.method, one.set, str(one.n)]
        for of in (one.validation, one.test):
            interval = f" [{of.interval[0]:.2f}, {of.interval[1]:.2f}]" if of.interval else ""
            cells += [f"{of.correlation:.3f}", f"{of.error:.2f}{interval}", f"{of.bias:+.2f}"]
        text.append(f"| {' | '.join(cells)} |\n")
    for one in found:
        if one.method in (RPG, CORRECTED):
            text.append(f"\n{one.method}, {one.vector}, {one.set}:\n\n{AT_HEADING}")
            text += [
                f"| {test.asked:g} | {test.aim:.1f} | {test.got:.1f} ± {test.std:.1f} | {validation.aim:.1f} |"
                f" {validation.got:.1f} ± {validation.std:.1f} |\n"
                for test, validation in zip(one.test.at, one.validation.at, strict=True)
            ]
    return "".join(text)
