"""Summarize the variants of an ablation: `rpg ablation --experiment recurrent-model`.

Writes results/<ablation>/ablation.json with a summary of every variant over all training seeds. Variants are compared
on the validation split; the scores on the test split stand beside them. With `baselines`, every other method of the
variants' experiments is summarized, too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpg.config.params import Params
from rpg.evaluation.intervals import ScoreSample, difference
from rpg.evaluation.methods import RECOUNTED, kinds
from rpg.evaluation.novelty import run_distance
from rpg.evaluation.prompt_table import PromptTrial, prompt_table
from rpg.evaluation.question_table import question_table
from rpg.evaluation.results import NoveltyResult, ParameterCount, ScoredNetwork, Scores
from rpg.evaluation.score import SETS, SPLITS, run_label, summary
from rpg.evaluation.wanted import read_wanted
from rpg.paths import Paths, ablation_file, paths_of
from rpg.utils.files import read_sealed, verified_file, write_sealed
from rpg.utils.metric import MetricKind

# A network of one training of a variant, and the training's index.
Trained = tuple[int, ScoredNetwork]
# Methods that are trained anew with each training seed.
TRAINED = ("rpg", "untuned", "hypernetwork")
RPG = ("rpg", f"rpg{RECOUNTED}")


def summarize(params: Params, name: str, results: Path) -> None:
    """Write ablation.json of the ablation `name`; UserError if a trial is missing."""
    ablation = params.ablation(name)
    # A list, because JSON keeps no order of keys.
    variants, by_variant = [], []
    for variant, changes in ablation.variants.items():
        trials = [paths_of(params, f"{name}/{variant}-{seed}", results) for seed in ablation.seeds]
        scores = [
            read_sealed(paths.file("score.scores"), f"rpg score --experiment {paths.experiment}", Scores)
            for paths in trials
        ]
        entry = _variant(scores, scores[0].metric_kind)
        if ablation.novelty:
            _add_novelty(entry["sets"], trials)
        if params.experiment(trials[0].experiment).wanted:
            entry["wanted"] = read_wanted(trials)
        parameters = read_sealed(trials[0].file("train.config"), "rpg train", ParameterCount).parameters
        variants.append({"variant": variant, "changes": changes, "parameters": parameters, **entry})
        by_variant.append(scores)
    metric_kind = by_variant[0][0].metric_kind
    tree: dict[str, Any] = {"variants": variants, **metric_kind.tree()}
    if ablation.baselines:
        # RPG's networks enter with their own BatchNorm statistics or recounted ones, as the rivals' do.
        ways = [
            (index, kind) for index in range(len(variants)) for kind in RPG if by_variant[index][0].kinds().get(kind)
        ]
        index, kind = max(ways, key=lambda way: metric_kind.rank(_choice(by_variant[way[0]], way[1])))
        best = variants[index]["variant"] + (", BatchNorm recounted" if kind.endswith(RECOUNTED) else "")
        tree |= {"best": best, "rivals": list(_rivals(by_variant, by_variant[index], kind, metric_kind))}
    if text := _prompts(params, name, results):
        tree["prompts"] = text
    write_sealed(ablation_file(name, results), tree)


def _prompts(params: Params, name: str, results: Path) -> str | None:
    """Return the table of `rpg prompts` over all trainings of the variant that has the stage; None without one.

    A variant without the stage is the RPG that is told the code, if prompts are images.
    """
    measured, device, told, questions = [], "", [], False
    for trial, experiment in params.trials(name).items():
        paths = paths_of(params, trial, results)
        if experiment.prompts:
            command = f"rpg prompts --experiment {trial}"
            facts = read_sealed(paths.file("prompts.summary"), command)
            rows = pd.read_csv(verified_file(paths.file("prompts.rows"), paths.file("prompts.summary"), command))
            measured.append(PromptTrial(rows, facts["seconds"]))
            device, questions = facts["device"], experiment.model.text is not None
        else:
            scores = read_sealed(paths.file("score.scores"), f"rpg score --experiment {trial}", Scores)
            seed = experiment.train.seed
            told += [
                {"code": one.code, "test": one.test, "training": seed} for one in scores.rpg if one.set == "held_out"
            ]
    if not measured:
        return None
    if questions:
        return question_table(measured, device)
    return prompt_table(measured, device, pd.DataFrame(told) if told else None)


def _choice(scores: Sequence[Scores], kind: str) -> float:
    """Return the mean by which a variant is chosen: on the validation split, for held-out tasks if there are any."""
    sets = [trained_networks(scores, kind, name) for name in ("held_out", "all")]
    networks = next((networks for networks in sets if networks), trained_networks(scores, kind, None))
    return float(np.mean([network.validation for _, network in networks]))


def trained_networks(scores: Sequence[Scores], kind: str, name: str | None) -> list[Trained]:
    """Return the networks of a kind, in the set `name` if given, of all trainings.

    All trainings share what is not trained anew, so the first training's suffices.
    """
    chosen = scores if kind.removesuffix(RECOUNTED) in TRAINED else scores[:1]
    return [
        (trial, network)
        for trial, of_trial in enumerate(chosen)
        for network in of_trial.kinds().get(kind, [])
        if name is None or network.set == name
    ]


def sample_of_trained(networks: Sequence[Trained], split: str) -> ScoreSample:
    trials = [trial for trial, _ in networks]
    return ScoreSample(
        [getattr(network, split) for _, network in networks],
        [run_label(network) for _, network in networks],
        trials if len(set(trials)) > 1 else (),
    )


def _summary(networks: Sequence[Trained], split: str, metric_kind: MetricKind) -> dict[str, Any]:
    sample = sample_of_trained(networks, split)
    return summary(sample.scores, sample.groups, sample.trainings, metric_kind)


def _by_seed(networks: Sequence[Trained], metric_kind: MetricKind) -> list[float]:
    rows = pd.DataFrame([{"trial": trial, "score": network.validation} for trial, network in networks])
    return [metric_kind.rounded(float(value)) for value in rows.groupby("trial")["score"].mean()]


def _variant(scores: Sequence[Scores], metric_kind: MetricKind) -> dict[str, Any]:
    """Summarize the samples and originals of one variant, by set of tasks, over all trainings."""
    sets: dict[str, Any] = {}
    for name in SETS:
        samples = trained_networks(scores, "rpg", name)
        if not samples:
            continue
        # Networks between training runs are compared with all originals.
        originals = trained_networks(scores, "original", None if name == "between" else name)
        sets[name] = {
            "by_seed": _by_seed(samples, metric_kind),
            **{
                split: {
                    "original": _summary(originals, split, metric_kind),
                    "rpg": _summary(samples, split, metric_kind),
                }
                for split in SPLITS
            },
        }
        if recounted := trained_networks(scores, f"rpg{RECOUNTED}", name):
            sets[name]["recounted"] = _summary(recounted, "validation", metric_kind)
    return {"sets": sets}


def _rivals(
    by_variant: Sequence[Sequence[Scores]], best: Sequence[Scores], best_kind: str, metric_kind: MetricKind
) -> Iterator[dict[str, Any]]:
    """Yield the scores of each method without RPG, by set of tasks, and the best variant's mean above them.

    Each method's scores come from the first variant that has it.
    """
    for kind in kinds():
        # RPG before tuning is no rival of RPG.
        if kind in (*RPG, "untuned", f"untuned{RECOUNTED}"):
            continue
        scores = next((some for some in by_variant if some[0].kinds().get(kind)), None)
        sets: dict[str, Any] = {}
        for name in SETS:
            networks = trained_networks(scores, kind, name) if scores else []
            own = trained_networks(best, best_kind, name)
            if networks and own:
                mean, interval = difference(sample_of_trained(own, "test"), sample_of_trained(networks, "test"))
                above: dict[str, Any] = {"mean": metric_kind.rounded(mean)}
                if interval:
                    above["interval"] = [metric_kind.rounded(bound) for bound in interval]
                sets[name] = {
                    "by_seed": _by_seed(networks, metric_kind),
                    **{split: _summary(networks, split, metric_kind) for split in SPLITS},
                    "above": above,
                }
        if sets:
            yield {"kind": kind, "sets": sets}


def _add_novelty(sets: dict[str, Any], trials: Sequence[Paths]) -> None:
    """Add the verdicts, and the distances of samples and originals over all trainings, to each set of a variant."""
    frames, verdicts = [], []
    for paths in trials:
        command = f"rpg novelty --experiment {paths.experiment}"
        verdicts.append(read_sealed(paths.file("novelty.summary"), command, NoveltyResult).rpg)
        frames.append(pd.read_csv(verified_file(paths.file("novelty.rows"), paths.file("novelty.summary"), command)))
    measures = pd.concat(frames, ignore_index=True)
    originals = measures[measures["networks"] == "original"]
    distance = run_distance(originals)
    for name, entry in sets.items():
        samples = measures[(measures["networks"] == "RPG") & (measures["set"] == name)]
        found = dict.fromkeys(of_trial[name].verdict for of_trial in verdicts if name in of_trial)
        entry["novelty"] = {
            "verdict": ", ".join(found),
            "rpg": round(float(samples["aligned"].median()), 4),
            **({"original": round(distance, 4)} if distance == distance else {}),
        }
