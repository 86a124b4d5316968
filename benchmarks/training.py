"""Compare training to the originals' accuracy with the published recipe: `python -m benchmarks training`.

Our training is the experiment in params.yaml, without tuning. The published procedure learns from the same zoo, with
its own network, target (the noise) and learning rate, in `times` our time; its cosine ends with its time. Both advance
in turns. Then each makes as many networks as the experiment samples; the networks are scored on the validation split,
because our recipe and the published learning rate are choices.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.common import report, synchronized_time
from benchmarks.draws import new_training
from benchmarks.published import Files, Published, training
from rpg.config.loading import load_params
from rpg.generator.sample import sample_networks
from rpg.paths import paths_of
from rpg.tasks.base import Task
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import build
from rpg.utils.device import device
from rpg.utils.rng import fix_arithmetic
from rpg.zoo.manifest import read_zoo

TURNS = 20
# The published recipe for the smallest networks (CIFAR-10, CNN-s): a batch of 8 with all tokens, and learning rate
# 1e-4. The network has the published shape at the width of the experiments here.
BATCH, CHANNELS, RECURRENT, DDIM = 8, [1, 16, 32, 16, 1], 256, 100


def compare_training(
    names: list[str], times: float, rates: list[float], threads: int, out: Path
) -> list[dict[str, Any]]:
    """Print and write seconds, steps and accuracy of both for each experiment and published learning rate."""
    fix_arithmetic(threads)
    return report([row for name in names for row in of_experiment(name, times, rates)], out, threads=threads)


def of_experiment(name: str, times: float, rates: list[float]) -> list[dict[str, Any]]:
    """Return a row for our training and one for each published learning rate."""
    params = load_params()
    experiment, paths, on = params.experiment(name), paths_of(params, name), device()
    store, task = TokenStore(paths.folder("tokens")), load_task(experiment.task, params.data_root)
    files = Files(paths.folder("zoo"), store)

    checkpoints, order = read_zoo(paths.folder("zoo"))
    originals = mean_score(task, [read_checkpoint(paths.folder("zoo") / one.file, order) for one in checkpoints])
    ours, count = new_training(experiment, store), experiment.sample.count
    torch.manual_seed(0)
    models = {
        rate: Published(store.layout.positions(), store.layout.width, RECURRENT, len(store), CHANNELS) for rate in rates
    }
    share = 0.0
    trainings = {
        rate: training(model, files, BATCH, BATCH * store.layout.length, rate, lambda: share, on)
        for rate, model in models.items()
    }
    spent, steps = dict.fromkeys(["ours", *rates], 0.0), dict.fromkeys(rates, 0)
    for turn in range(1, TURNS + 1):
        started = synchronized_time()
        while ours.step < experiment.train.steps * turn // TURNS:
            ours.one_step()
        seconds = synchronized_time() - started
        spent["ours"] += seconds
        for rate, steps_of in trainings.items():
            started = synchronized_time()
            while (elapsed := synchronized_time() - started) < times * seconds:
                share = (turn - 1 + elapsed / (times * seconds)) / TURNS
                next(steps_of)
                steps[rate] += 1
            spent[rate] += elapsed

    model = build(experiment.model, experiment.diffusion, store).to(on)
    model.load_state_dict(ours.averaged())
    requests = [((k % len(store.seeds),), None) for k in range(count)]
    table = ConditionTable.of(experiment.model.conditions, store)
    sampled = sample_networks(model.eval(), table, store, experiment.sample, requests)
    accuracy = mean_score(task, [network for network, _, _ in sampled])
    of_originals = "% of the originals' accuracy"
    rows = [
        {
            "experiment": name,
            "training": "ours",
            "steps": ours.step,
            "seconds": spent["ours"],
            "times ours": 1.0,
            "accuracy": accuracy,
            of_originals: 100 * accuracy / originals,
        }
    ]
    for rate, published in models.items():
        states = torch.arange(count) * len(store) // count
        accuracy = mean_score(task, generated(published.eval(), store, states, on))
        rows.append(
            {
                "experiment": name,
                "training": f"published, {rate:g}",
                "steps": steps[rate],
                "seconds": spent[rate],
                "times ours": spent[rate] / spent["ours"],
                "accuracy": accuracy,
                of_originals: 100 * accuracy / originals,
            }
        )
    return rows


def mean_score(task: Task, networks: Sequence[StateDict]) -> float:
    """Return the mean of the networks' scores on the validation split, by which choices are made."""
    return mean(task.score(network, "validation") for network in networks)


def generated(model: Published, store: TokenStore, checkpoints: torch.Tensor, on: torch.device) -> list[StateDict]:
    """Sample a network of the published model for each index in `checkpoints`, the model's states."""
    networks = []
    for part in checkpoints.split(5):
        tokens_BLD = model.ddim(part.to(on), DDIM).cpu()
        states = torch.tensor([store.state(store.checkpoints[index]) for index in part])
        networks += unstack(store.detokenize(tokens_BLD, states))
    return networks
