"""Fine-tune a trained RPG on the task loss: `rpg tune --experiment digits-tasks`.

Writes tune/model.safetensors (EMA weights), tune/config.json and tune/log.csv.

Weight reconstruction rewards a generated network for being close to a trained one. The task loss rewards it for
solving its task. The networks are generated for (state, code) pairs of the zoo and see *training* images only.
"""

from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.training import Tune
from rpg.model.diffusion import T, add_noise
from rpg.model.rpg import RPG
from rpg.sources import code_digest
from rpg.tasks.loading import load_differentiable
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import (
    Values,
    drop_vectors,
    mix_states,
)
from rpg.training.hypernetwork import Generated
from rpg.training.model_file import load_rpg, read_config
from rpg.training.prompts import prompts_of
from rpg.training.train import drawn_tokens, picked_tokens
from rpg.training.trainer import Loss, Training, run_training
from rpg.training.wanted_scores import AskedStates, TrainingScores
from rpg.utils.device import device


def tune_loss(generated: Generated, params: Tune) -> Loss:
    """Return the task loss of networks from noise and from their own noised tokens, plus the diffusion loss.

    All three terms take the same (state, code) pairs. In the first two, some of the networks lie between two states, or
    have the vectors of another checkpoint.
    """
    conditions = generated.conditions
    wanted = TrainingScores(generated.task, conditions, generated.store) if params.loss == "scores" else None
    asked = AskedStates(generated.store, params.own_vectors or ()) if params.exchanged else None

    def changed(picks: list[int], values: Values, draw: torch.Generator) -> tuple[list[int], Values]:
        """Return the checkpoints and values of the networks between states, and of those with exchanged vectors."""
        mixed = round(params.between * len(picks))
        if asked:
            picks, values = asked.exchange(conditions, picks, values, generated.values, params.exchanged or 0.0, draw)
            return picks, asked.mix(values, mixed, draw)
        first = {name: value[:mixed] for name, value in values.items()}
        return picks, mix_states(first, draw) if mixed else first

    def loss(model: RPG, draw: torch.Generator) -> Tensor:
        count = params.networks // 2
        checkpoints = generated.draw(count, draw)
        picks, codes, values = checkpoints.picks, checkpoints.codes, checkpoints.values
        altered_picks, altered = changed(picks, values, draw)
        if asked:
            codes = [generated.codes[pick] for pick in altered_picks]
        part = len(next(iter(altered.values())))
        scores_B = None
        if wanted:
            scores_B = wanted({name: torch.cat([altered[name], own[part:]]) for name, own in values.items()})
        values, altered = (drop_vectors(conditions, one, draw) for one in (values, altered))
        # One pass of the backbone takes less time than two.
        together = {name: torch.cat([value, altered[name]]) for name, value in values.items()}
        trained_BLW, altered_BLW = model.recurrent(together).split([count, part])
        prototypes_BLW = torch.cat([altered_BLW, trained_BLW[part:]])
        generated_values = {name: torch.cat([altered[name], values[name][part:]]) for name in values}
        start_BLD = model.starts(generated_values)
        tokens_BLD = generated.from_noise(model, prototypes_BLW, start_BLD, draw)
        # A sampler's later steps start from the earlier steps' predictions plus noise. This half imitates these steps.
        t_B = torch.randint(T, (count,), generator=draw).to(generated.on)
        noise_BLD = torch.randn(tokens_BLD.shape, generator=draw).to(tokens_BLD)
        x_BLD = add_noise(tokens_BLD.detach(), noise_BLD, t_B.unsqueeze(1))
        again_BLD = model.denoise(x_BLD, t_B, prototypes_BLW, start_BLD)
        scores_2B = scores_B if scores_B is None else torch.cat([scores_B, scores_B])
        made_BLD = torch.cat([tokens_BLD, again_BLD])
        twice = [*codes, *codes]
        task_loss = generated.loss(made_BLD, altered_picks + altered_picks, twice, draw, scores_2B)
        drawn, t, noise = drawn_tokens(tokens_BLD.shape, params.diffusion_batch, params.times, 1, draw)
        own = picked_tokens(generated.store, picks, drawn)
        own, drawn, t, noise = (tensor.to(generated.on) for tensor in (own, drawn, t, noise))
        start_BLD = model.starts(values)
        return task_loss + params.diffusion * model.loss(own, trained_BLW, drawn, t, noise, start_BLD)

    # Later draws depend on the task's own draws, so nothing is drawn in advance.
    return Loss(lambda draw: draw, loss)


def tune_rpg(
    experiment: Experiment, tokens: Path, base: Path, rpg: Path, folder: Path, seconds: Path, data_root: str | None
) -> None:
    """Fine-tune the RPG in `rpg`, trained on the token store `tokens`; write the model into `folder`.

    `base` is the folder of the base network, for prompts. Writes the training time into `seconds`. Raises Diverged if
    the loss stops being finite.
    """
    params, on = experiment.tune, device()
    assert params
    store = TokenStore(tokens)
    model = load_rpg(rpg, store, on)
    config = read_config(rpg)
    task = load_differentiable(experiment.task, experiment.zoo, data_root)
    prompts = prompts_of(experiment, base, data_root)
    if prompts:
        prompts.fit(model)
    generated = Generated(task, store, config.model.conditions, params, on, prompts)
    training = Training(params, model, tune_loss(generated, params), "tune", on)
    blocks = experiment.model_dump(include={"task", "tune"})
    learns_from = [blocks, (rpg / "config.json").read_text(), code_digest("tune", experiment.task)]
    run_training(training, folder, seconds, config.model, config.diffusion, store, learns_from)
