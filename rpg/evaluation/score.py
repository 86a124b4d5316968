"""Score originals and samples on the test split, by the same code: `rpg score --experiment digits-vit`.

Writes scores.json (every network's score), answers.safetensors (the answers of originals and samples on the test split)
and metrics.json (the summary over all originals and all samples on the test split, with the sample standard deviation,
n - 1). With task codes, metrics.json summarizes seen and held-out codes separately and adds the baselines: those of
rpg.evaluation.baselines, the majority class, the RPG before tuning and the hypernetwork.
`rpg score --experiment digits-vit --weights FILE` prints the score of any state dict.
"""

import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from rpg.config.experiment import Experiment
from rpg.evaluation.baselines import formulas
from rpg.evaluation.results import NetworkFacts, ScoredNetwork, Scores
from rpg.generator.manifest import Sampled, Samples
from rpg.paths import Paths
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.utils.artifacts import Set
from rpg.utils.errors import UserError, one_line
from rpg.utils.files import (
    check_unchanged,
    file_entry,
    read_metadata,
    read_sealed,
    read_tensors,
    verified_file,
    write_json,
    write_sealed,
    write_tensors,
)
from rpg.utils.progress import progress
from rpg.zoo.manifest import Checkpoint, read_zoo

SPLITS = ("validation", "test")
# The set of networks in samples/manifest.json → its name in the tables. With task codes, a set says whether RPG learned
# the task. Without, the sets are all networks of one permutation state, and all networks between two states.
SETS: dict[Set, str] = {
    "seen": "seen",
    "held_out_pairs": "held-out pairs",
    "held_out": "held-out",
    "all": "all",
    "between": "between states",
}
# A network's facts and its weights.
Network = tuple[NetworkFacts, StateDict]
# The kind of networks, such as `rpg` → the networks.
Kinds = dict[str, list[ScoredNetwork]]


def score_all(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Score every checkpoint of the zoo and every sample on the validation split (for choices) and the test split.

    Raises UserError if a sample is missing or changed, or if only one of zoo and samples has task codes.
    """
    task = load_task(experiment.task, data_root)
    kept, answers = paths.kept("score"), dict[str, torch.Tensor]()
    checkpoints, _ = read_zoo(paths.folder("zoo"))
    manifest = read_samples(paths.folder("sample"), len({checkpoint.seed for checkpoint in checkpoints}))
    for sampled in manifest:
        check_unchanged(paths.folder("sample"), sampled.file, sampled.sha256, "sampled", "`rpg sample`")
    if (manifest[0].code is None) != (checkpoints[0].code is None):
        raise UserError(
            f"{paths.folder('sample')}: task codes in the samples or in the zoo alone; run `rpg sample` again"
        )

    def score(networks: Iterator[Network], count: int) -> list[ScoredNetwork]:
        scored = []
        shown = progress(networks, "score", total=count)
        while part := list(islice(shown, task.judge_batch)):
            facts, state_dicts = zip(*part, strict=True)
            codes = [fact.code for fact in facts]
            # Only the tables use the other metrics, so only the test split needs them.
            judged = {
                split: task.judge_all(state_dicts, split, codes, kept, main_only=split != "test") for split in SPLITS
            }
            for fact, *of_splits in zip(facts, *judged.values(), strict=True):
                if fact.sha256 is not None:
                    answers[fact.sha256] = of_splits[-1].answers.to(torch.int32)
                scores = dict(zip(judged, (one.scores for one in of_splits), strict=True))
                main = {split: by_metric[task.metric] for split, by_metric in scores.items()}
                others = {name: score for name, score in scores["test"].items() if name != task.metric}
                extra = {"others": others} if others else {}
                scored.append(ScoredNetwork.model_validate({**fact.tree(), **main, **extra}))
        return scored

    listed: tuple[tuple[Path, Sequence[Checkpoint | Sampled]], ...] = (
        (paths.folder("zoo"), checkpoints),
        (paths.folder("sample"), manifest),
    )
    originals, samples = (
        score(
            (
                (_facts(network), read_tensors(path))
                for network, path in ((network, folder / network.file) for network in networks)
            ),
            len(networks),
        )
        for folder, networks in listed
    )
    references = task.references()
    reference_scores = {name: score(iter([(NetworkFacts(), state_dict)]), 1) for name, state_dict in references.items()}
    kinds: Kinds = {"original": originals}
    for sampled, scored in zip(manifest, samples, strict=True):
        kinds.setdefault(sampled.model, []).append(scored)
    if checkpoints[0].code is not None:
        store = TokenStore(paths.folder("tokens"))
        runs = list(dict.fromkeys((one.state, one.code or "") for one in manifest if one.model == "rpg"))
        for name, formula in formulas(store).items():
            networks = (
                (
                    NetworkFacts(state=state, code=code),
                    unstack(store.detokenize(formula(state, code).unsqueeze(0), torch.tensor([state])))[0],
                )
                for state, code in runs
            )
            kinds[name] = score(networks, len(runs))
        kinds["majority_class"] = [
            ScoredNetwork(
                state=state, code=code, validation=task.majority(code, "validation"), test=task.majority(code, "test")
            )
            for state, code in runs
        ]
        _name_sets(kinds, store)
    else:
        for original in originals:
            original.set = "all"
    header = {"metric": task.metric, "parameters": task.parameters}
    write_json(paths.file("score.metrics"), {**header, **_metrics(kinds, reference_scores)})
    write_tensors(paths.file("score.answers"), answers)
    files = {"files": [file_entry(paths.file("score.metrics")), file_entry(paths.file("score.answers"))]}
    extra = {"references": _trees(reference_scores)} if reference_scores else {}
    write_sealed(paths.file("score.scores"), {**header, **_trees(kinds), **extra, **files})
    shutil.rmtree(kept, ignore_errors=True)


def read_answers(paths: Paths) -> dict[str, tuple[float, torch.Tensor]]:
    """Return the SHA-256 of each original and sample → its score and its answers [n] on the test split.

    Raises UserError if the files of `rpg score` are missing or changed.
    """
    command = f"rpg score --experiment {paths.experiment}"
    scores = read_sealed(paths.file("score.scores"), command, Scores)
    answers = read_tensors(verified_file(paths.file("score.answers"), paths.file("score.scores"), command))
    return {
        network.sha256: (network.test, answers[network.sha256].long().flatten())
        for network in chain(scores.original, scores.rpg, scores.untuned, scores.hypernetwork)
        if network.sha256 in answers
    }


def read_samples(folder: Path, states: int) -> list[Sampled]:
    """Read the manifest's entries in `folder`; UserError if damaged, or if a state is not below `states`."""
    manifest = folder / "manifest.json"
    samples = read_sealed(manifest, "rpg sample", Samples).samples
    for sample in samples:
        if max([sample.state, *sample.between]) >= states:
            raise UserError(f"{manifest}: {sample.file} is of no state of the zoo; run `rpg sample` again")
    return samples


def _facts(network: Checkpoint | Sampled) -> NetworkFacts:
    keys = NetworkFacts.model_fields.keys() & type(network).model_fields.keys()
    return NetworkFacts.model_validate(network.model_dump(include=set(keys), exclude_unset=True))


def _trees(kinds: Kinds) -> dict[str, list[dict[str, Any]]]:
    return {kind: [network.tree() for network in networks] for kind, networks in kinds.items()}


def _name_sets(kinds: Kinds, store: TokenStore) -> None:
    """Set the `set` (`TokenStore.task_set`) of each network that was not sampled.

    An original without a sample for the same state and code has no set, because sets compare equal tasks.
    """
    sampled = {(sample.state, sample.code) for sample in kinds["rpg"]}
    for network in chain.from_iterable(kinds.values()):
        if network.set is None:
            state = network.state if network.seed is None else store.seeds.index(network.seed)
            if state is None or (state, network.code) not in sampled:
                network.set = None
            else:
                network.set = store.task_set(state, network.code)


def _metrics(kinds: Kinds, references: Kinds) -> dict[str, Any]:
    """Return metrics.json: summaries on the test split; with task codes also per set and for the baselines."""

    def summarize(networks: list[ScoredNetwork]) -> dict[str, float | int]:
        runs = [run_label(network) for network in networks]
        return summary([network.test for network in networks], runs)

    def by_set(kind: str) -> dict[str, Any]:
        sets = dict.fromkeys(network.set for network in kinds[kind] if network.set)
        return {name: summarize([network for network in kinds[kind] if network.set == name]) for name in sets}

    # `between` and the sets of tasks have entries of their own. Without task codes the set `all` is the entry `rpg`.
    sets = by_set("rpg")
    own = [network for network in kinds["rpg"] if network.set != "between"]
    tree: dict[str, Any] = {"original": summarize(kinds["original"]), "rpg": summarize(own)}
    tree |= {name: entry for name, entry in sets.items() if name != "all"}
    if kinds["rpg"][0].code is not None:
        tree["original_by_set"] = by_set("original")
        tree["baselines"] = {kind: by_set(kind) for kind in kinds if kind not in ("original", "rpg")}
    tree |= {name: summarize(networks) for name, networks in references.items()}
    others = kinds["original"][0].others
    if others:
        tree["others"] = {
            name: {
                kind: summary(
                    [network.others[name] for network in networks], [run_label(network) for network in networks]
                )
                for kind, networks in {"original": kinds["original"], "rpg": own, **references}.items()
            }
            for name in others
        }
    return tree


def run_label(network: NetworkFacts) -> str:
    """Return the group of a network in scores.json: its task, the training runs that it mixes, or its training run."""
    return str(network.code or network.between or (network.state if network.seed is None else network.seed))


def summary(values: Sequence[float], groups: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return mean, std, min, best (the largest) and n of `values`, and the mean's 95 % `interval`.

    The interval is a percentile bootstrap. With `groups`, one per value, the bootstrap draws whole groups, because the
    saves of one training run, and the networks of one task, are not independent. std is 0 for a single value.
    """
    array = np.array(values)
    labels = (
        np.arange(len(array)) if groups is None or len(set(groups)) == 1 else np.unique(groups, return_inverse=True)[1]
    )
    sums, counts = np.bincount(labels, weights=array), np.bincount(labels)
    interval = [array.mean()] * 2
    if len(sums) > 1:

        def mean(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
            return sums.sum(axis) / counts.sum(axis)

        draws = {"n_resamples": 2000, "rng": np.random.default_rng(0)}
        result = bootstrap((sums, counts), mean, paired=True, method="percentile", vectorized=True, **draws)
        interval = [result.confidence_interval.low, result.confidence_interval.high]
    return {
        "mean": round(float(array.mean()), 4),
        "std": round(float(array.std(ddof=1)), 4) if len(array) > 1 else 0.0,
        "interval": [round(float(bound), 4) for bound in interval],
        "min": round(float(array.min()), 4),
        "best": round(float(array.max()), 4),
        "n": len(array),
    }


def score_file(experiment: Experiment, weights: Path, code: str | None, data_root: str | None) -> str:
    """Return one line with the score of the state dict in `weights` on the test split, in the task of `code` if any.

    Raises UserError if the weights do not fit, or if the experiment has task codes and neither `code` nor the file
    names one.
    """
    task = load_task(experiment.task, data_root)
    state_dict = read_tensors(weights)
    # Files from `rpg generate` name their task.
    code = code or read_metadata(weights, "task_code")
    if code is None and experiment.task.has_codes:
        raise UserError(f"{weights}: names no task; add --classes or --code")
    for name, tensor in state_dict.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: tensor '{name}' holds NaN or Inf")
    return one_line(f"{weights}: {task.metric} {task.score(state_dict, 'test', code):.2f}")
