"""Compare samplers at equal accuracy: `python -m benchmarks sampling`, or at a shape from the paper with `--shape`.

The benchmark samples a trained RPG with its own solver and with DDIM-100, the published solver. It also samples the
published network at the same tokens with DDIM-100; its seconds do not depend on its weights. The accuracy is over as
many networks as the experiment samples, on the validation split. At a shape from the paper the networks have random
weights, so there is no accuracy.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import in_turn, ratio, report
from benchmarks.published import Published
from benchmarks.shapes import OURS, SHAPES, Zoo, experiment_of, our_model, shrunk, states
from benchmarks.training import CHANNELS, DDIM, RECURRENT, mean_score
from rpg.config.experiment import Sample
from rpg.config.loading import load_params
from rpg.generator.sample import sample_networks
from rpg.model.rpg import RPG
from rpg.paths import paths_of
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable, Values
from rpg.training.model_file import load_rpg, read_config
from rpg.utils.device import device, worth_compiling
from rpg.utils.rng import fix_arithmetic, generator


def compare_sampling(
    names: list[str], shapes: list[str], fraction: int, rounds: int, threads: int, out: Path
) -> list[dict[str, Any]]:
    """Print and write accuracy and seconds per network, from request to state dict, or to tokens for `shapes`."""
    fix_arithmetic(threads)
    if shapes:
        return report([row for name in shapes for row in of_shape(name, fraction, rounds)], out, threads=threads)
    return report([row for name in names for row in of_experiment(name, rounds)], out, threads=threads)


def of_shape(name: str, fraction: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each of our networks, with our sampler."""
    shape, on = shrunk(SHAPES[name], fraction), device()
    zoo, rows = Zoo(shape), []
    for way, network in OURS.items():
        experiment = experiment_of(shape, way)
        model, values = our_model(experiment, zoo).eval(), states(zoo, experiment, 1)
        if worth_compiling(on, model.width):
            # Compile, as `sample_networks` does for many networks.
            model.denoiser.compile()

        def sampled(model: RPG = model, values: Values = values) -> torch.Tensor:
            draws = [generator(0, "benchmarks", "sampling")]
            return model.sample(values, solver="dpm-solver++", steps=10, generators=draws, precision="bfloat16")

        (taken,) = in_turn({network: sampled}, rounds).values()
        facts = {"L": shape.length, "D": shape.width, "parameters": sum(one.numel() for one in model.parameters())}
        rows.append(
            {
                "shape": name,
                **facts,
                "network": network,
                "sampler": "dpm-solver++-10",
                "seconds": statistics.median(taken),
                "fastest": min(taken),
                "slowest": max(taken),
            }
        )
    return rows


def of_experiment(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each sampler."""
    params = load_params()
    experiment, paths, on = params.experiment(name), paths_of(params, name), device()
    store, task = TokenStore(paths.folder("tokens")), load_task(experiment.task, params.data_root)
    folder = paths.generator(experiment)
    model, own = load_rpg(folder, store, on), experiment.sample
    table = ConditionTable.of(read_config(folder).model.conditions, store)
    torch.manual_seed(0)
    published = Published(store.layout.positions(), store.layout.width, RECURRENT, len(store), CHANNELS).to(on).eval()
    state_0 = torch.zeros(1, dtype=torch.int64)

    def ours(chosen: Sample, count: int) -> list[Any]:
        wanted = [((k % len(store.seeds),), None) for k in range(count)]
        return [network for network, _, _ in sample_networks(model, table, store, chosen, wanted)]

    slow, what = own.model_copy(update={"solver": "ddim", "steps": DDIM}), f"ours, {own.solver}-{own.steps}"
    ways: dict[str, Callable[[], Any]] = {
        f"published, DDIM-{DDIM}": lambda: store.detokenize(published.ddim(state_0.to(on), DDIM).cpu(), state_0),
        f"ours, DDIM-{DDIM}": lambda: ours(slow, 1),
        what: lambda: ours(own, 1),
    }
    seconds = in_turn(ways, rounds)
    accuracy = {f"ours, DDIM-{DDIM}": slow, what: own}
    return [
        {
            "experiment": name,
            "sampler": way,
            "seconds": statistics.median(taken),
            **ratio(taken, seconds[what]),
            "accuracy": mean_score(task, ours(accuracy[way], own.count)) if way in accuracy else None,
        }
        for way, taken in seconds.items()
    ]
