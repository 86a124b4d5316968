"""Tell whether samples are new: `rpg novelty --experiment digits-vit`.

Writes novelty.json, the summary, and novelty.csv, one row per network: RPG's samples, the originals they learned from,
and what can be made of the same zoo without RPG (rpg.mixing, rpg.baselines). Of each network:

    distance      to the nearest checkpoint of the zoo other than itself
    aligned       the same after permuting the units of each seed's checkpoints to match the network's
    residual      to the nearest affine combination of the zoo's checkpoints, aligned; an average of some has none. Of
                  an original, to those of the other training runs: what remains when a network is trained anew
    iou           of its wrong answers and those of the nearest original for its task: both wrong / either wrong
    disagreement  with that original: percent of the test images on which they answer differently

The critique that asks for these numbers is arXiv 2506.07998.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpg.baselines import formulas
from rpg.collect import read_zoo
from rpg.files import check_unchanged, read_json, write_json, write_text
from rpg.geometry import Space, Zoo
from rpg.mixing import mixtures
from rpg.params import Experiment
from rpg.paths import Paths
from rpg.progress import progress
from rpg.score import summary
from rpg.symmetry import groups
from rpg.tasks import load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokens import TokenStore, read_checkpoint, tokenise

# A mean of two checkpoints is half their distance from each; a copy must be nearer.
REPLICA = 0.25
INTERPOLATION = 0.5
TAUS = (0.5, 1.0, 2.0, 4.0)
ACCURATE = 0.99
MEASURES = ("distance", "distance_within", "distance_across", "aligned", "residual", "iou", "disagreement")


@dataclass(frozen=True)
class Network:
    """One network to be measured; `index` is its place among the checkpoints that RPG learned from, if it is one."""

    kind: str
    code: str | None
    state: int
    point_P: np.ndarray
    answers: np.ndarray
    file: str = ""
    index: int | None = None


class Novelty:
    """The zoo, the samples and the test split of one experiment."""

    def __init__(self, experiment: Experiment, paths: Paths, data_root: str | None) -> None:
        """Read everything; UserError if something is missing or was changed."""
        self.experiment, self.paths, self.params = experiment, paths, experiment.novelty
        self.store = TokenStore(paths.tokens)
        self.task = load_task(experiment.task, data_root)
        _, self.names = read_zoo(paths.zoo)
        self.space = Space(self.store.layout, groups(self.task.network, self.task.inputs("validation")[:2]))
        checkpoints = self.store.checkpoints
        self.zoo = Zoo(
            self.space,
            np.stack([self.space.point(self.store[index]) for index in range(len(checkpoints))]),
            np.array([self.store.state(entry) for entry in checkpoints]),
            np.array([entry.get("code", "") for entry in checkpoints]),
        )
        self.originals = [self.read("original", paths.zoo, entry, index) for index, entry in enumerate(checkpoints)]
        self.held_out = [self.read("original", paths.zoo, entry) for entry in self.store.held_out]
        manifest = read_json(paths.samples / "manifest.json", "rpg sample", "samples")["samples"]
        by_set: dict[str, list[dict[str, Any]]] = {}
        for entry in manifest:
            if entry["model"] == "rpg":
                by_set.setdefault(self.task_set(entry["state"], entry.get("code")), []).append(entry)
        chosen = [entry for entries in by_set.values() for entry in self.draw(entries, len(by_set))]
        for entry in chosen:
            check_unchanged(paths.samples / entry["file"], entry["sha256"], "sampled", "`rpg sample`")
        self.samples = [self.read("RPG", paths.samples, entry) for entry in chosen]

    def task_set(self, state: int, code: str | None) -> str:
        """What RPG knows of a task, or `all` where there is but one."""
        return self.store.task_set(state, code) if code else "all"

    def draw(self, entries: Sequence[Any], parts: int = 1) -> list[Any]:
        """At most `novelty.networks` of `entries`, or that by `parts`, drawn at random, in their order."""
        count = min(self.params.networks // parts, len(entries))
        chosen = random.Random(self.params.seed).sample(range(len(entries)), count)
        return [entries[index] for index in sorted(chosen)]

    def read(self, kind: str, folder: Path, entry: dict[str, Any], index: int | None = None) -> Network:
        """The network in a file of the zoo or of the samples."""
        state_dict = read_checkpoint(folder / entry["file"], self.names)
        point_P = self.space.point(tokenise(state_dict, self.store.layout, self.store.stats))
        state = entry["state"] if "state" in entry else self.store.state(entry)
        return Network(kind, entry.get("code"), state, point_P, self.answers(state_dict), entry["file"], index)

    def at(self, kind: str, state: int, code: str | None, point_P: np.ndarray) -> Network:
        """The network at a point."""
        weights = self.store.detokenise(self.space.tokens(point_P).unsqueeze(0), torch.tensor([state]))
        return Network(kind, code, state, point_P, self.answers(unstack(weights)[0]))

    def answers(self, state_dict: StateDict) -> np.ndarray:
        """[n] what the network takes the test images for."""
        return self.task.answers(state_dict, self.task.inputs("test")).numpy()

    def wrong(self, network: Network) -> np.ndarray:
        """[n] bool: on which test images the network is wrong."""
        return network.answers != self.task.targets(self.task.data.test.labels, [network.code])[0].numpy()

    def others(self) -> Iterator[Network]:
        """What can be made of the zoo without RPG, for the same states and codes as the samples."""
        wishes = [(sample.state, sample.code) for sample in self.samples]
        made = mixtures(self.zoo, wishes, self.params.noise, self.params.seed)
        for kind, networks in made.items():
            for state, code, point_P in networks:
                yield self.at(kind, state, code, point_P)
        if self.experiment.task.kind == "task_codes":
            for kind, formula in formulas(self.store).items():
                for state, code in dict.fromkeys(wishes):
                    yield self.at(kind, state, code, self.space.point(formula(state, code or "")))

    def row(self, network: Network) -> dict[str, Any]:
        """The line of novelty.csv; alignment and what is compared with the nearest original for the two main kinds."""
        main = network.kind in ("original", "RPG")
        row: dict[str, Any] = {
            "networks": network.kind,
            "file": network.file,
            "code": network.code or "",
            "set": self.task_set(network.state, network.code),
            "test": 100 * float(1 - self.wrong(network).mean()),
            **self.zoo.measure(network.point_P, but=network.index, align=main),
        }
        row["nearest"] = self.store.checkpoints[row["nearest"]]["file"]
        rivals = [
            other
            for other in [*self.originals, *self.held_out]
            if main and other.code == network.code and other.file != network.file
        ]
        if rivals:
            nearest = min(rivals, key=lambda other: float(np.square(other.point_P - network.point_P).sum()))
            row["iou"] = iou(self.wrong(network), self.wrong(nearest))
            row["disagreement"] = 100 * float((network.answers != nearest.answers).mean())
        return row

    def ensembles(self) -> dict[str, float | int]:
        """Accuracy of a plurality vote of samples and of as many originals for the same task, and each one's gain.

        Means over the tasks that have two samples and two originals or more; empty if there are none.
        """
        rows = []
        for code in dict.fromkeys(sample.code for sample in self.samples):
            samples, originals = (
                [network for network in networks if network.code == code]
                for networks in (self.samples, self.draw([*self.originals, *self.held_out]))
            )
            count = min(len(samples), len(originals))
            if count > 1:
                row: dict[str, float] = {"networks": count}
                for name, networks in (("rpg", samples[:count]), ("original", originals[:count])):
                    voted = Network(name, code, 0, networks[0].point_P, vote([each.answers for each in networks]))
                    row[name] = 100 * float(1 - self.wrong(voted).mean())
                    alone = np.mean([100 * (1 - self.wrong(each).mean()) for each in networks])
                    row[f"{name}_gain"] = row[name] - float(alone)
                rows.append(row)
        return {str(name): round(float(value), 4) for name, value in pd.DataFrame(rows).mean().items()}


def vote(answers: Sequence[np.ndarray]) -> np.ndarray:
    """[n] the answer that most of the networks give; of several, the smallest."""
    stacked_En = np.stack(answers)
    counts_Kn = np.stack([(stacked_En == answer).sum(0) for answer in range(stacked_En.max() + 1)])
    return counts_Kn.argmax(0)


def iou(wrong: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two sets of wrong answers, bool [n] each; 1 if neither has any."""
    either = (wrong | other).sum()
    return float((wrong & other).sum() / either) if either else 1.0


def verdict(samples: pd.DataFrame, originals: pd.DataFrame) -> str:
    """What the samples are, by medians, beside what the originals are among themselves.

    replica        aligned distance under REPLICA of that between the originals (that of each to its nearest)
    interpolation  otherwise, and residual under INTERPOLATION of the originals' own
    novel          otherwise: as far from anything that can be combined from the zoo as a network trained anew
    """
    if samples["aligned"].median() < REPLICA * originals["aligned"].median():
        return "replica"
    near = samples["residual"].median() < INTERPOLATION * originals["residual"].median()
    return "interpolation" if near else "novel"


def summarise(rows: pd.DataFrame) -> dict[str, Any]:
    """novelty.json from the rows of novelty.csv, over all samples and for each set of tasks alone.

    `median` holds medians of the columns, of the originals in `zoo`. `distance` is the median in units of the zoo's
    own, `novel`, for each τ, the fraction of the networks that have ACCURATE of the originals' mean accuracy and are
    farther than τ of these units.
    """
    kinds = dict(iter(rows.groupby("networks", sort=False)))
    originals, samples = kinds["original"], kinds["RPG"]
    unit, enough = originals["distance"].median(), ACCURATE * originals["test"].mean()

    def method(networks: pd.DataFrame) -> dict[str, Any]:
        accurate = networks["test"] >= enough
        novel = {str(tau): float((accurate & (networks["distance"] > tau * unit)).mean()) for tau in TAUS}
        return {
            **summary(networks["test"].tolist()),
            "distance": round(float(networks["distance"].median() / unit), 4),
            "novel": {tau: round(share, 4) for tau, share in novel.items()},
        }

    def medians(networks: pd.DataFrame) -> dict[str, float]:
        found = networks[[name for name in MEASURES if name in networks]].median().dropna()
        return {str(name): round(float(value), 6) for name, value in found.items()}

    return {
        "rule": {"replica": REPLICA, "interpolation": INTERPOLATION, "accurate": ACCURATE},
        "zoo": medians(originals),
        "rpg": {
            name: {"verdict": verdict(chosen, originals), "median": medians(chosen), **method(chosen)}
            for name, chosen in ((name, samples[samples["set"] == name]) for name in samples["set"].unique())
        },
        "original": method(originals),
        "baselines": {kind: method(networks) for kind, networks in kinds.items() if kind not in ("original", "RPG")},
    }


def novelty_layer(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Measure originals, samples and what can be made of the zoo without RPG; write novelty.json and novelty.csv."""
    novelty = Novelty(experiment, paths, data_root)
    networks = [*novelty.draw(novelty.originals), *novelty.samples, *novelty.others()]
    rows = pd.DataFrame([novelty.row(network) for network in progress(networks, "novelty", total=len(networks))])
    write_text(paths.novelty_rows, rows.round(6).to_csv(index=False))
    write_json(paths.novelty, {**summarise(rows), "ensembles": novelty.ensembles()})
