"""The card of segmentation and detection opens the network through params.yaml."""

import pytest
from conftest import ROOT

from rpg.config.loading import load_params
from rpg.tasks.openmmlab.card import card


@pytest.mark.parametrize(("name", "library"), [("scenes-upernet", "mmsegmentation"), ("scenes-vitdet", "mmdet")])
def test_card(name: str, library: str) -> None:
    text = card(load_params(ROOT / "params.yaml").experiment(name).task, name)
    assert (text.network, text.library) == (name, library)
    assert f'load_task(params.experiment("{name}").task, params.data_root).network' in text.use
    assert f'load_file("results/{name}/samples/0000.safetensors")' in text.use
    compile(text.use, "card", "exec")
    assert f"`workflow/configs/{name}.py` describes `network`." in text.answer
