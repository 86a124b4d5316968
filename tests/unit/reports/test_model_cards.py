import json
import re
from pathlib import Path

import pytest
import timm
from conftest import FEW
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from rpg.data import scenes


@pytest.mark.parametrize(("fixture", "name"), [("finished", "mini"), ("tasks", "tasks")])
def test_card_says_what_the_tables_say(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    card = ModelCard.load(folder / f"results/{name}/README.md")
    entry = json.loads((folder / "results/metrics.json").read_text())["experiments"][name]
    found = {result.dataset_name.partition(", ")[2]: result.metric_value for result in card.data.eval_results}
    if name == "mini":
        assert found == {"all": entry["rpg"]["mean"]}
    else:
        assert found == {
            "seen": entry["seen"]["mean"],
            "held-out pairs": entry["held_out_pairs"]["mean"],
            "held-out": entry["held_out"]["mean"],
        }
    assert (card.data.library_name, card.data.license) == ("timm", "apache-2.0")
    for of in entry["novelty"]["rpg"].values():
        assert f"**{of['verdict']}**" in card.text
    assert f"The {entry['rpg']['n']} state dicts" in card.text
    # Of the networks with task codes those that are held out were learned by no RPG.
    layout = json.loads((folder / f"results/{name}/tokens/layout.json").read_text())
    assert f"had learned from {len(layout['checkpoints'])} checkpoints" in card.text


def test_card_of_a_segmentation(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in FEW.items():
        monkeypatch.setattr(scenes, name, count)
    card = ModelCard.load(found / "results/scenes/README.md")
    entry = json.loads((found / "results/metrics.json").read_text())["experiments"]["scenes"]
    assert [card.data.library_name, card.data.pipeline_tag] == ["mmsegmentation", "image-segmentation"]
    (result,) = card.data.eval_results
    assert [result.metric_type, result.metric_value] == ["mean_iou", entry["rpg"]["mean"]]
    assert "The mIoU in percent on the test split" in card.text
    assert "had learned from 4 checkpoints of\n2 training runs" in card.text
    monkeypatch.chdir(found)
    (block,) = re.findall(r"```python\n(.+?)```", card.text, re.S)
    namespace: dict = {}
    exec(block, namespace)
    sample = load_file("results/scenes/samples/0000.safetensors")
    loaded = namespace["network"].state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in sample.items())


@pytest.mark.parametrize(("fixture", "name"), [("finished", "mini"), ("tasks", "tasks")])
def test_its_code_loads_a_sample(
    fixture: str, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(fixture) / f"results/{name}"
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.S)
    exec(block, {"timm": timm, "load_file": load_file})
