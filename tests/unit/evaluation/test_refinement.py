from pathlib import Path

import torch
from torch.func import functional_call
from torch.nn import functional

from rpg.config.loading import load_params
from rpg.evaluation.refinement import refined
from rpg.model.diffusion import T
from rpg.model.set_encoder import support_values
from rpg.paths import paths_of
from rpg.tasks.loading import load_task
from rpg.tasks.stack import unstack
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import load_rpg
from rpg.utils.device import device


def test_steps_lower_the_loss_on_the_images_and_leave_the_generator(shown: Path, monkeypatch) -> None:
    monkeypatch.chdir(shown)
    experiment, paths = load_params().experiment("shown"), paths_of(load_params(), "shown")
    store, task = TokenStore(paths.folder("tokens")), load_task(experiment.task, None)
    model = load_rpg(paths.folder("tune"), store, device())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = {
        "permutation_state": torch.ones(2, 1),
        "images": support_values([[torch.rand(3, 18), torch.rand(3, 18)] for _ in range(2)]),
    }
    inputs, answers = torch.randn(2, 6, 1, 8, 8), torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)

    def losses(steps: int) -> list[float]:
        made = refined(model, store, task, values, inputs, answers, steps=steps, learning_rate=0.02, seed=1)
        return [
            float(functional.cross_entropy(functional_call(task.network, one, (own,)), right))
            for one, own, right in zip(made, inputs, answers, strict=True)
        ]

    start, end = losses(0), losses(15)
    assert all(later < 0.9 * earlier for earlier, later in zip(start, end, strict=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    # Without steps, it is the network that one call of the denoiser makes from the same noise.
    noise = torch.randn(2, model.length, model.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model.denoise(noise, torch.full((2,), T - 1), model.recurrent(values), model.starts(values))
    plain = unstack(store.detokenize(tokens, torch.zeros(2, dtype=torch.int64)))
    made = refined(model, store, task, values, inputs, answers, steps=0, learning_rate=0.02, seed=1)
    for one, other in zip(made, plain, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
