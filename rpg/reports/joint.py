"""Compare a joint RPG with each experiment's own: `rpg joint --experiment digits-architectures`.

Writes joint.json and README.md, a table of each architecture's networks beside those of its own generator, with the
parameters and the training seconds of each, and a table of each architecture that was not trained beside its rivals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpg.config.params import Params
from rpg.evaluation.results import Metrics, ParameterCount
from rpg.evaluation.rivals import last_checkpoints, random_networks, resized, trained_from_scratch
from rpg.evaluation.score import SPLITS, summary
from rpg.generator.sample import sample_networks
from rpg.joint.architecture import architecture_of, own_seconds
from rpg.joint.model import JointRPG
from rpg.joint.train import JointConfig, JointTraining
from rpg.paths import paths_of
from rpg.reports.formatting import table
from rpg.tasks.base import Task
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict
from rpg.utils.artifacts import Seconds
from rpg.utils.files import read_json, read_sealed, write_sealed, write_text

# Scored networks: their scores on each split, and the group of each, whose networks are not independent.
Rows = dict[str, list[float]]


def run_joint(params: Params, name: str, results: Path, data_root: str | None) -> None:
    """Train the joint RPG with each of its seeds, score its networks, and write joint.json and README.md.

    Raises UserError if a member has no tokens or no scores of its own generator.
    """
    joint = params.joint_experiment(name)
    trainings = [JointTraining(params, name, seed, results) for seed in joint.seeds]
    # A missing artifact of a member is found before the training.
    members = [_own(training, experiment) for training in trainings[:1] for experiment in joint.members]
    for training in trainings:
        training.run(data_root)
    models = [training.load() for training in trainings]
    for entry in members:
        samples = [
            _scored_samples(training, model, entry["experiment"], data_root)
            for training, model in zip(trainings, models, strict=True)
        ]
        entry["joint"] = _summaries(samples)
    unseen = [_unseen(trainings, models, experiment, data_root) for experiment in joint.unseen]
    config = read_sealed(trainings[0].folder(trainings[0].stages[-1]) / "config.json", f"rpg joint {name}", JointConfig)
    tree = {
        "parameters": config.parameters,
        "seconds": [_seconds(training) for training in trainings],
        "own_seconds": round(sum(entry["own_seconds"] for entry in members), 3),
        "members": members,
        "unseen": unseen,
    }
    write_sealed(results / name / "joint.json", tree)
    write_text(results / name / "README.md", page(name, tree))


def _seconds(training: JointTraining) -> float:
    command = f"rpg joint --experiment {training.name}"
    return sum(read_json(training.seconds(stage), command, Seconds).seconds for stage in training.stages)


def _own(training: JointTraining, experiment: str) -> dict[str, Any]:
    """Return what is known of an experiment's own generator."""
    paths = paths_of(training.params, experiment, training.results)
    command = f"rpg score --experiment {experiment}"
    files = {"validation": paths.file("score.metrics"), "test": paths.file("score.test")}
    metrics = {split: read_json(file, command, Metrics).rpg.mean for split, file in files.items()}
    config = paths.generator(training.params.experiment(experiment)) / "config.json"
    return {
        "experiment": experiment,
        "own": metrics,
        "own_parameters": read_sealed(config, f"rpg train --experiment {experiment}", ParameterCount).parameters,
        "own_seconds": round(sum(own_seconds(training, experiment).values()), 3),
    }


def _scored(task: Task, networks: Sequence[StateDict]) -> Rows:
    """Return split → scores of the networks."""
    return {split: [task.score(network, split) for network in networks] for split in SPLITS}


def _scored_samples(training: JointTraining, model: JointRPG, experiment: str, data_root: str | None) -> Rows:
    """Return the scores of the joint RPG's samples, evenly over the states of an architecture."""
    parts = architecture_of(training, model, experiment)
    params, states = training.recipe.sample, next(iter(parts.table.sizes.values()))
    # Each state of an architecture that was not trained has a network.
    count = max(params.count, states)
    requests = [((index % states,), None) for index in range(count)]
    networks = sample_networks(parts.model, parts.table, parts.tokenizer, params, requests)
    task = load_task(training.params.experiment(experiment).task, data_root)
    return _scored(task, [state_dict for state_dict, *_ in networks])


def _summaries(samples: Sequence[Rows]) -> dict[str, Any]:
    """Return split → the summary over the samples of all trainings; `by_seed` are the means of each training."""
    tree: dict[str, Any] = {}
    for split in SPLITS:
        scores = [score for rows in samples for score in rows[split]]
        of_training = [index for index, rows in enumerate(samples) for _ in rows[split]]
        tree[split] = summary(scores, of_training)
        tree[split]["by_seed"] = [round(sum(rows[split]) / len(rows[split]), 3) for rows in samples]
    return tree


def _unseen(
    trainings: Sequence[JointTraining], models: Sequence[JointRPG], experiment: str, data_root: str | None
) -> dict[str, Any]:
    """Return the scores of an architecture that was not trained, and of its rivals."""
    params, first = trainings[0].params, trainings[0]
    block = params.experiment(experiment)
    task, seeds = load_task(block.task, data_root), first.joint.seeds
    samples = [
        _scored_samples(training, model, experiment, data_root)
        for training, model in zip(trainings, models, strict=True)
    ]
    rows = [{"method": "joint RPG", "seconds": _seconds(first), **_summaries(samples)}]
    networks = random_networks(task, seeds)
    rows.append({"method": "random weights", "seconds": 0.0, **_summaries([_scored(task, networks)])})
    for name, store in zip(first.joint.members, first.stores, strict=True):
        checkpoints = last_checkpoints(store, paths_of(params, name, first.results).folder("zoo"))
        cut = [resized(state_dict, networks[0]) for state_dict in checkpoints]
        rows.append({"method": f"{name}, cut or padded", "seconds": 0.0, **_summaries([_scored(task, cut)])})
    scratch = [trained_from_scratch(task, block, _seconds(first), seed) for seed in seeds]
    rows.append(
        {
            "method": "from scratch",
            "seconds": round(sum(spent for *_, spent in scratch) / len(scratch), 3),
            "steps": [steps for _, steps, _ in scratch],
            **_summaries([_scored(task, [network]) for network, *_ in scratch]),
        }
    )
    return {"experiment": experiment, "rows": rows}


def page(name: str, tree: dict[str, Any]) -> str:
    """Return README.md, the tables of joint.json."""
    seconds = sum(tree["seconds"]) / len(tree["seconds"])
    lines = [
        f"# {name}",
        "",
        f"One RPG of {tree['parameters']:,} parameters makes the networks of {len(tree['members'])} experiments. Its"
        f" training takes {seconds:.1f} s, a share of {seconds / tree['own_seconds']:.2f} of the"
        f" {tree['own_seconds']:.1f} s of the experiments' own generators together. Scores are means over the samples"
        f" of {len(tree['seconds'])} trainings.",
        "",
        table(
            [
                {
                    "experiment": entry["experiment"],
                    "own parameters": f"{entry['own_parameters']:,}",
                    "own seconds": f"{entry['own_seconds']:.1f}",
                    "own validation": f"{entry['own']['validation']:.2f}",
                    "joint validation": f"{entry['joint']['validation']['mean']:.2f}",
                    "own test": f"{entry['own']['test']:.2f}",
                    "joint test": f"{entry['joint']['test']['mean']:.2f}",
                    "share of own": f"{entry['joint']['test']['mean'] / entry['own']['test']:.3f}",
                }
                for entry in tree["members"]
            ]
        ),
    ]
    for entry in tree["unseen"]:
        lines += [
            f"## {entry['experiment']}, an architecture without a network in the training",
            "",
            table(
                [
                    {
                        "networks": row["method"],
                        "seconds": f"{row['seconds']:.1f}",
                        "validation": f"{row['validation']['mean']:.2f} ± {row['validation']['std']:.2f}",
                        "test": f"{row['test']['mean']:.2f} ± {row['test']['std']:.2f}",
                        "n": str(row["test"]["n"]),
                    }
                    for row in entry["rows"]
                ]
            ),
        ]
    return "\n".join(lines)
