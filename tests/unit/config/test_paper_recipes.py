"""The experiments of the paper have the recipes of the published code; docs/choices.md lists the differences."""

import pytest
from conftest import ROOT

from rpg.config.loading import load_params
from rpg.config.model import ConvolutionDenoiserConfig, PaperBackboneConfig

PARAMS = load_params(ROOT / "params.yaml")
NARROW, WIDE = [1, 32, 64, 128, 64, 32, 1], [1, 64, 96, 64, 1]
# Token width, channels, batch, steps, learning rate, tokens in the loss (null: all), optimizer, solver.
# The published ViT-Base has two checkpoints and 512 tokens on each of four GPUs.
RECIPES = {
    "imagenet-resnet18": (8192, NARROW, 8, 80000, 3e-5, 1024, "adamw", "ddpm"),
    "imagenet-resnet50": (8192, NARROW, 8, 80000, 3e-5, 1024, "adamw", "ddpm"),
    "imagenet-resnet50_gn": (8192, NARROW, 8, 80000, 3e-5, 1024, "adamw", "ddpm"),
    "imagenet-vit_tiny": (8192, NARROW, 4, 50000, 3e-5, 1024, "adamw8bit", "ddpm"),
    "imagenet-vit_small": (8192, NARROW, 4, 50000, 3e-5, 1024, "adamw", "ddpm"),
    "imagenet-vit_base": (16384, WIDE, 8, 120000, 1e-5, 2048, "adamw8bit", "ddim"),
    "imagenet-convnext_atto": (8192, NARROW, 4, 80000, 3e-5, 1024, "adamw", "ddpm"),
    "imagenet-convnext_large": (16384, WIDE, 2, 120000, 1e-5, 448, "adamw8bit", "ddim"),
    "ade20k-upernet-vit_base": (16384, WIDE, 2, 120000, 1e-5, 512, "adamw8bit", "ddim"),
    "coco-vitdet-vit_base": (16384, WIDE, 2, 120000, 1e-5, 512, "adamw8bit", "ddim"),
    "commonsense-llama7b-dora-r4": (8192, NARROW, 8, 80000, 3e-5, 512, "adamw8bit", "ddpm"),
    "commonsense-llama7b-dora-r16": (8192, NARROW, 8, 100000, 3e-5, 512, "adamw8bit", "ddpm"),
    "commonsense-llama7b-dora-r64": (16384, WIDE, 2, 120000, 1e-5, 512, "adamw8bit", "ddim"),
    "cifar10-tasks": (8192, NARROW, 16, 120000, 3e-5, 512, "adamw8bit", "ddpm"),
    # Eight checkpoints of 18 and of 48 tokens: all tokens enter the loss, as published.
    "cifar10-cnn_small": (256, NARROW, 8, 30000, 1e-4, 8 * 18, "adamw", "ddpm"),
    "cifar10-cnn_medium": (256, NARROW, 8, 30000, 1e-4, 8 * 48, "adamw", "ddpm"),
    "cifar10-resnet18": (8192, NARROW, 8, 80000, 4e-5, 1024, "adamw", "ddpm"),
    "cifar10-mobilenetv3": (4096, NARROW, 2, 100000, 3e-5, 1024, "adamw", "ddpm"),
    "cifar10-vit_base": (16384, WIDE, 2, 100000, 1e-5, 512, "adamw8bit", "ddim"),
}


def test_all_experiments_of_the_papers_size_are_here() -> None:
    paper = {name for name, each in PARAMS.experiments.items() if each.model.backbone.kind == "paper"}
    # The published architecture on a laptop's zoo, for comparison.
    assert paper - {"digits-vit-paper"} == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_published_one(name: str) -> None:
    experiment = PARAMS.experiment(name)
    backbone, denoiser, train = experiment.model.backbone, experiment.model.denoiser, experiment.train
    assert isinstance(backbone, PaperBackboneConfig)
    assert isinstance(denoiser, ConvolutionDenoiserConfig)
    solver, width = experiment.sample.solver, experiment.tokens.width
    rate, picks = train.learning_rate, train.diffusion_batch
    found = (width, denoiser.channels, train.batch, train.steps, rate, picks, train.optimizer, solver)
    assert found == RECIPES[name]
    assert experiment.sample.steps == {"ddpm": 1000, "ddim": 60}[solver]
    assert (train.weight_decay, train.gradient_clip, train.warmup, train.ema) == (0.0, None, 0.0, 0.0)
    assert (train.times, train.draws, train.betas) == (None, 1, [0.9, 0.999])
    assert (experiment.diffusion.target, experiment.model.start, denoiser.kernel) == ("epsilon", "zero", 7)
    assert backbone.width == (12288 if width == 16384 else width)
    small = name in ("cifar10-cnn_small", "cifar10-cnn_medium")
    assert (backbone.state_width, backbone.head_width, backbone.expand) == (32 if small else 128, 64, 2)
    assert not backbone.prototype_projection


def test_the_task_code_reaches_the_last_eight_tokens_alone_and_there_is_no_state() -> None:
    (code,) = PARAMS.experiment("cifar10-tasks").model.model_dump()["conditions"]
    assert code == {"kind": "task_code", "hidden": 1024, "reach": {"last": 8}}
