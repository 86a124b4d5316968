import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from rpg.config.loading import load_params
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.hypernetwork import Generated, train_hypernetwork
from rpg.training.model_file import load_rpg
from rpg.utils.device import device


def test_training_lowers_the_task_loss(tasks: Path, tmp_path: Path) -> None:
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    params = experiment.hypernetwork.model_copy(update={"steps": 250, "learning_rate": 0.003, "images": 64})
    store = TokenStore(tasks / "results/tasks/tokens")
    generated = Generated(load_task(experiment.task, None), store, experiment.model.conditions, params, device())
    losses = []
    for steps in (1, 250):
        changed = experiment.model_copy(update={"hypernetwork": params.model_copy(update={"steps": steps})})
        train_hypernetwork(changed, store.folder, tmp_path / f"{steps}", tmp_path / "seconds.json", None)
        model = load_rpg(tmp_path / f"{steps}", store, device())
        with torch.no_grad():
            runs = []
            for seed in range(20):
                draw = torch.Generator().manual_seed(seed)
                picks, values = generated.draw(4, draw)
                tokens_BLD = generated.from_noise(model, model.recurrent(values), draw)
                runs.append(generated.loss(tokens_BLD, picks, draw))
        losses.append(torch.stack(runs).mean().item())
    # Three seeds have 0.65 to 0.86.
    assert losses[1] < 0.97 * losses[0]


def test_samples_have_counted_training_images(tasks: Path) -> None:
    """BatchNorm's statistics of the first layer, worked out by hand: mean and unbiased variance of its inputs."""
    folder = tasks / "results/tasks/samples"
    samples = json.loads((folder / "manifest.json").read_text())["samples"]
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    task = load_task(experiment.task, None)
    images = task.data.inputs(task.data.train.images, 8).to(device())
    for model, counted in (("hypernetwork", True), ("rpg", False)):
        entry = next(entry for entry in samples if entry["model"] == model)
        state_dict = load_file(folder / entry["file"])
        task.network.load_state_dict(state_dict)
        with torch.no_grad():
            before = task.network.conv1[:1](images)
        found = torch.allclose(state_dict["conv1.1.running_mean"], before.mean((0, 2, 3)).cpu(), rtol=0.01, atol=1e-3)
        assert found == counted, model
