"""Score originals and samples on the test split, by the same code: `rpg score --experiment digits-vit`.

Writes scores.json (every network's score), answers.safetensors (the answers of originals and samples on the test
split), metrics.json (the summary over all originals and all samples on the validation split, by which choices are made)
and test.json (the same on the test split, for the tables). With task codes, both summarize seen and held-out codes
separately and add the baselines: those of rpg.evaluation.baselines, the base network, the majority class, the RPG
before tuning and the hypernetwork.
`rpg score --experiment digits-vit --weights FILE` prints the score of any state dict.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpg.config.experiment import Experiment
from rpg.evaluation.baselines import Formula
from rpg.evaluation.distance import refer_to_zoo
from rpg.evaluation.intervals import ScoreSample, difference, mean_interval
from rpg.evaluation.methods import RECOUNTED
from rpg.evaluation.question_baselines import formulas_of
from rpg.evaluation.results import NetworkFacts, ScoredNetwork, Scores
from rpg.generator.manifest import Sampled, Samples
from rpg.paths import Paths
from rpg.sources import code_digest
from rpg.tasks.base import Judgement, Task
from rpg.tasks.loading import differentiable, load_task, recounted
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.utils.artifacts import Set
from rpg.utils.errors import UserError
from rpg.utils.files import (
    check_unchanged,
    file_entry,
    read_sealed,
    read_tensors,
    verified_file,
    write_json,
    write_sealed,
    write_tensors,
)
from rpg.utils.metric import PERCENT, MetricKind
from rpg.utils.progress import progress
from rpg.zoo.manifest import Checkpoint, read_base, read_zoo

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


class Scorer:
    """Scores networks of one experiment on both splits; `answers` collects their answers on the test split."""

    def __init__(self, task: Task, kept: Path) -> None:
        self.task, self.kept = task, kept
        self.answers: dict[str, torch.Tensor] = {}

    def score(self, networks: Iterable[Network], count: int, what: str = "score") -> list[ScoredNetwork]:
        """Return the scores of `count` networks."""
        scored = []
        shown = progress(iter(networks), what, total=count)
        while part := list(islice(shown, self.task.judge_batch)):
            facts, state_dicts = zip(*part, strict=True)
            codes = [fact.code for fact in facts]
            # Only the tables use the other metrics, so only the test split needs them.
            judged = {
                split: self.task.judge_all(state_dicts, split, codes, self.kept, main_only=split != "test")
                for split in SPLITS
            }
            scored += [
                self.scored(fact, dict(zip(judged, of_splits, strict=True)))
                for fact, *of_splits in zip(facts, *judged.values(), strict=True)
            ]
        return scored

    def scored(self, fact: NetworkFacts, judged: Mapping[str, Judgement]) -> ScoredNetwork:
        """Return a network's scores, with its right answers, from its judgements on both splits."""
        if fact.sha256 is not None:
            self.answers[fact.sha256] = judged["test"].answers.to(torch.int32)
        metric = self.task.metric
        main = {split: judgement.scores[metric] for split, judgement in judged.items()}
        others = {name: score for name, score in judged["test"].scores.items() if name != metric}
        network = ScoredNetwork.model_validate({**fact.tree(), **main, **({"others": others} if others else {})})
        for split, judgement in judged.items():
            if len(judgement.answers):
                network.keep_right(split, (judgement.answers == self.task.targets(split, fact.code)).numpy())
        return network


def score_all(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Score every checkpoint of the zoo and every sample on the validation split (for choices) and the test split.

    Raises UserError if a sample is missing or changed, or if only one of zoo and samples has task codes.
    """
    # Answers that older code gave are in another folder.
    kept = paths.kept("score") / code_digest("score", experiment.task)[:16]
    scorer = Scorer(load_task(experiment.task, data_root), kept)
    if not experiment.task.has_score:
        refer_to_zoo(scorer.task, paths.folder("tokens"), scorer.kept)
    checkpoints, _ = read_zoo(paths.folder("zoo"))
    learned = {checkpoint.seed for checkpoint in checkpoints if checkpoint.code or not checkpoint.held_out}
    manifest = read_samples(paths.folder("sample"), len(learned))
    for sampled in manifest:
        check_unchanged(paths.folder("sample"), sampled.file, sampled.sha256, "sampled", "`rpg sample`")
    if (manifest[0].code is None) != (checkpoints[0].code is None):
        raise UserError(
            f"{paths.folder('sample')}: task codes in the samples or in the zoo alone; run `rpg sample` again"
        )
    originals, samples = (
        scorer.score(_networks(networks, paths.folder(stage)), len(networks))
        for stage, networks in (("zoo", checkpoints), ("sample", manifest))
    )
    references = {
        name: scorer.score([(NetworkFacts(), state_dict)], 1) for name, state_dict in scorer.task.references().items()
    }
    # Runs that are held out as a whole are no measure of what the samples should reach.
    unseen = [network for network in originals if network.held_out and network.code is None]
    references |= {"held_out_runs": unseen} if unseen else {}
    kinds: Kinds = {"original": [one for one in originals if one.code is not None or not one.held_out]}
    for sampled, scored in zip(manifest, samples, strict=True):
        kinds.setdefault(sampled.model, []).append(scored)
    if checkpoints[0].code is not None:
        store = TokenStore(paths.folder("tokens"))
        kinds |= CodeBaselines(scorer, experiment, paths, store, manifest).score()
        _name_sets(kinds, store)
    else:
        for original in kinds["original"]:
            original.set = "all"
    kind = experiment.task.metric_kind
    header = {"metric": scorer.task.metric, **kind.tree(), "parameters": scorer.task.parameters}
    write_json(paths.file("score.metrics"), {**header, **_summaries(kinds, references, "validation", kind)})
    write_json(paths.file("score.test"), {**header, **_summaries(kinds, references, "test", kind)})
    write_tensors(paths.file("score.answers"), scorer.answers)
    files = [file_entry(paths.file(f"score.{name}")) for name in ("metrics", "test", "answers")]
    extra = {"references": _trees(references)} if references else {}
    write_sealed(paths.file("score.scores"), {**header, **_trees(kinds), **extra, "files": files})
    shutil.rmtree(paths.kept("score"), ignore_errors=True)


class CodeBaselines:
    """Scores the baselines of an experiment with task codes, one network for each state and code of RPG's samples."""

    def __init__(
        self, scorer: Scorer, experiment: Experiment, paths: Paths, store: TokenStore, manifest: list[Sampled]
    ) -> None:
        self.scorer, self.experiment, self.paths, self.store = scorer, experiment, paths, store
        self.manifest = manifest
        self.runs = list(dict.fromkeys((one.state, one.code or "") for one in manifest if one.model == "rpg"))

    def score(self) -> Kinds:
        """Return kind → scored networks."""
        formulas_by_name = formulas_of(self.experiment, self.scorer.task, self.store)
        kinds = {
            name: self._score(self._from_formula(formula), name) for name, formula in formulas_by_name.items()
        } | self._scores_of_majority()
        task = differentiable(self.scorer.task)
        if task and task.has_statistics:
            sources = {
                "original": self._originals(),
                **{model: self._samples(model) for model in dict.fromkeys(one.model for one in self.manifest)},
                **{name: self._from_formula(formula) for name, formula in formulas_by_name.items()},
            }
            for kind, networks in sources.items():
                with_codes = ((facts, state_dict, facts.code) for facts, state_dict in networks)
                kinds[f"{kind}{RECOUNTED}"] = self._score(recounted(task, with_codes), kind)
        if self.experiment.base:
            kinds |= self._scores_of_base()
        return kinds

    def _score(self, networks: Iterable[Network], what: str) -> list[ScoredNetwork]:
        return self.scorer.score(networks, len(self.runs), what)

    def _from_formula(self, formula: Formula) -> Iterator[Network]:
        for state, code in self.runs:
            tokens_1LD = formula(state, code).unsqueeze(0)
            yield (
                NetworkFacts(state=state, code=code),
                unstack(self.store.detokenize(tokens_1LD, torch.tensor([state])))[0],
            )

    def _originals(self) -> Iterator[Network]:
        """Yield the trained network of each run."""
        checkpoints = [*self.store.held_out, *self.store.checkpoints]
        return self._first_of_runs(
            (self.store.state(one), one.code, self.paths.folder("zoo") / one.file) for one in checkpoints
        )

    def _samples(self, model: str) -> Iterator[Network]:
        """Yield a model's first sample of each run."""
        samples = [one for one in self.manifest if one.model == model]
        return self._first_of_runs((one.state, one.code, self.paths.folder("sample") / one.file) for one in samples)

    def _first_of_runs(self, listed: Iterable[tuple[int, str | None, Path]]) -> Iterator[Network]:
        """Yield the first of the `listed` networks (state, code and file) of each run."""
        wanted = set(self.runs)
        for state, code, path in listed:
            if (state, code or "") in wanted:
                wanted.remove((state, code or ""))
                yield NetworkFacts(state=state, code=code), read_tensors(path)

    def _scores_of_majority(self) -> Kinds:
        """Return the scores of the answer that is most frequent in training."""
        task = self.scorer.task

        def judged(code: str) -> dict[str, Judgement]:
            answer = task.majority(code)
            targets = {split: task.targets(split, code) for split in SPLITS}
            return {
                split: Judgement.of(task.metric, torch.full_like(right, answer), right)
                for split, right in targets.items()
            }

        facts = [NetworkFacts(state=state, code=code) for state, code in self.runs]
        return {"majority_class": [self.scorer.scored(fact, judged(fact.code or "")) for fact in facts]}

    def _scores_of_base(self) -> Kinds:
        """Return the scores of what the base network can do for each task without any training of the zoo."""
        task, experiment, folder = self.scorer.task, self.experiment, self.paths.folder("base")
        answering = (task.base_network(read_base(experiment, folder, seed) or {}) for seed in self.store.seeds)
        bases = [one for one in answering if one is not None]
        if not bases:
            return {}
        lookup = [
            self.scorer.scored(
                NetworkFacts(state=state, code=code), {split: bases[state].look_up(split, code) for split in SPLITS}
            )
            for state, code in self.runs
        ]
        probes = ((NetworkFacts(state=state, code=code), bases[state].probe(code)) for state, code in self.runs)
        return {"base_lookup": lookup, "base_probe": self._score(probes, "base_probe")}


def _networks(listed: Sequence[Checkpoint | Sampled], folder: Path) -> Iterator[Network]:
    for network in listed:
        yield _facts(network), read_tensors(folder / network.file)


def read_answers(paths: Paths) -> dict[str, tuple[float, torch.Tensor]]:
    """Return the SHA-256 of each original and sample → its score and its answers [n] on the test split.

    Raises UserError if the files of `rpg score` are missing or changed.
    """
    command = f"rpg score --experiment {paths.experiment}"
    scores = read_sealed(paths.file("score.scores"), command, Scores)
    answers = read_tensors(verified_file(paths.file("score.answers"), paths.file("score.scores"), command))
    return {
        network.sha256: (network.test, answers[network.sha256].long().flatten())
        for network in chain(
            scores.original, scores.rpg, scores.untuned, scores.hypernetwork, *scores.references.values()
        )
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


def _summaries(kinds: Kinds, references: Kinds, split: str, metric_kind: MetricKind) -> dict[str, Any]:
    """Return the summaries of all networks on one split; with task codes also per set and for the baselines."""

    def summarize(networks: Sequence[ScoredNetwork]) -> dict[str, Any]:
        sample = sample_of(networks, split)
        return summary(sample.scores, sample.groups, metric_kind=metric_kind)

    def of_set(kind: str, name: str | None) -> list[ScoredNetwork]:
        return [network for network in kinds[kind] if network.set == name]

    def by_set(kind: str) -> dict[str, Any]:
        sets = dict.fromkeys(network.set for network in kinds[kind] if network.set)
        return {name: summarize(of_set(kind, name)) for name in sets}

    def above(own: Sequence[ScoredNetwork], rivals: Sequence[ScoredNetwork]) -> dict[str, Any]:
        mean, interval = difference(sample_of(own, split), sample_of(rivals, split))
        return {"mean": metric_kind.rounded(mean), **_interval(interval, metric_kind)}

    # `between` and the sets of tasks have entries of their own. Without task codes the set `all` is the entry `rpg`.
    sets = by_set("rpg")
    own = [network for network in kinds["rpg"] if network.set != "between"]
    tree: dict[str, Any] = {"split": split, "original": summarize(kinds["original"]), "rpg": summarize(own)}
    tree |= {name: entry for name, entry in sets.items() if name != "all"}
    # Rival → set of RPG's samples → RPG's mean minus the rival's.
    differences = {"original": {"all": above(own, kinds["original"])}}
    if "between" in sets:
        differences["original"]["between"] = above(of_set("rpg", "between"), kinds["original"])
    if kinds["rpg"][0].code is not None:
        tree["original_by_set"] = by_set("original")
        tree["baselines"] = {kind: by_set(kind) for kind in kinds if kind not in ("original", "rpg")}
        for kind in (kind for kind in kinds if kind != "rpg"):
            pairs = ((name, of_set(kind, name)) for name in sets)
            differences.setdefault(kind, {}).update(
                {name: above(of_set("rpg", name), rivals) for name, rivals in pairs if rivals}
            )
    tree["differences"] = differences
    tree |= {name: summarize(networks) for name, networks in references.items()}
    others = kinds["original"][0].others if split == "test" else {}
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


def sample_of(networks: Sequence[ScoredNetwork], split: str) -> ScoreSample:
    """Return the networks' scores on a split, with their groups, and their right answers if these are the scores."""
    scores = [getattr(network, split) for network in networks]
    rows = [network.right.get(split, np.empty(0, dtype=bool)) for network in networks]
    right = np.stack(rows) if len({len(row) for row in rows}) == 1 else np.empty((0, 0), dtype=bool)
    if right.size and not np.allclose(100 * right.mean(1), scores, atol=0.01):
        right = np.empty((0, 0), dtype=bool)
    return ScoreSample(scores, [run_label(network) for network in networks], right=right)


def run_label(network: NetworkFacts) -> str:
    """Return the group of a network in scores.json: its task, the training runs that it mixes, or its training run."""
    return str(network.code or network.between or (network.state if network.seed is None else network.seed))


def summary(
    values: Sequence[float], groups: Sequence[Any], trainings: Sequence[Any] = (), metric_kind: MetricKind = PERCENT
) -> dict[str, Any]:
    """Return mean, std, min, best and n of `values`, and the mean's 95 % `interval` over `groups`.

    `best` is the score of the best network and `min` that of the worst one: the smallest and the largest value if lower
    is better.

    The groups, one per value, are training runs or tasks: the saves of one run, and the networks of one task, are not
    independent. `trainings`, one per value, are those of the generator. A single group has no interval. std is 0 for a
    single value.
    """
    array = np.array(values)
    return {
        "mean": metric_kind.rounded(float(array.mean())),
        "std": metric_kind.rounded(float(array.std(ddof=1))) if len(array) > 1 else 0.0,
        **_interval(mean_interval(ScoreSample(values, groups, trainings), metric_kind.most), metric_kind),
        "min": metric_kind.rounded(metric_kind.worst(array.tolist())),
        "best": metric_kind.rounded(metric_kind.best(array.tolist())),
        "n": len(array),
    }


def _interval(interval: tuple[float, float] | None, metric_kind: MetricKind) -> dict[str, list[float]]:
    return {"interval": [metric_kind.rounded(bound) for bound in interval]} if interval else {}
