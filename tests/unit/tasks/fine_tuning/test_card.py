"""The card of fine-tuned classifiers builds timm's network without its weights."""

from conftest import ROOT

from rpg.config.loading import load_params
from rpg.tasks.fine_tuning.card import card


def test_card() -> None:
    text = card(load_params(ROOT / "params.yaml").experiment("imagenet-resnet18").task)
    assert text.network.startswith("resnet18")
    assert text.library == "timm"
    assert f"network = timm.create_model('{text.network}')\n" in text.use
    assert "rpg" not in text.use
    assert text.answer.startswith("Images go through `timm.data.create_transform` with `resolve_data_config({}, ")
