from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from miniatures import write_folders

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.config.presets import resolve
from rpg.pipeline import prerequisites
from rpg.tasks.commonsense.config import CommonsenseTask

COMMIT = "0123456789" * 4
PARAMS = load_params(ROOT / "params.yaml")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch) -> None:
    monkeypatch.setattr("rpg.utils.hub.on_hub", lambda repository, revision: False)
    monkeypatch.delenv("RPG_DATA", raising=False)


def missing(name: str, data_root: Path | None = None) -> list[str]:
    return prerequisites.missing(PARAMS.experiment(name), str(data_root) if data_root else None)


def pinned(name: str) -> Experiment:
    """An experiment with the commit of what it takes from the hub."""
    block = "task" if isinstance(PARAMS.experiment(name).task, CommonsenseTask) else "base"
    experiment = PARAMS.experiment(name)
    given = getattr(experiment, block).model_copy(update={"revision": COMMIT})
    return experiment.model_copy(update={block: given})


def test_default_experiments_need_nothing() -> None:
    for name in PARAMS.experiments_to_run():
        assert missing(name) == []


def test_one_line_for_each_data_set_and_model(tmp_path: Path) -> None:
    data, weights = missing("imagenet-convnext_large")
    assert data == "data set 'imagenet': no data folder; set RPG_DATA, or data_root in params.yaml"
    assert weights == (
        "params.yaml: base.revision: must be the commit of 'timm/convnext_large.fb_in22k_ft_in1k' on the Hugging Face"
        " hub, 40 digits; `hf models info timm/convnext_large.fb_in22k_ft_in1k` prints it as sha"
    )
    data, weights = prerequisites.missing(pinned("imagenet-convnext_large"), None)
    assert weights.startswith("weights of timm's 'convnext_large.fb_in22k_ft_in1k': not available")
    assert f"hf download timm/convnext_large.fb_in22k_ft_in1k --revision {COMMIT}" in weights
    assert missing("ade20k-upernet-vit_base", tmp_path) == [
        f"{tmp_path}/ADEChallengeData2016: no such data folder; put ade20k there, or set RPG_DATA to the folder that"
        " holds it"
    ]
    data, model = missing("commonsense-llama7b-dora-r64")
    assert model.startswith("params.yaml: task.revision: must be the commit of 'huggyllama/llama-7b'")
    data, model = prerequisites.missing(pinned("commonsense-llama7b-dora-r64"), None)
    assert model.startswith("language model 'huggyllama/llama-7b': not available")
    assert f"hf download huggyllama/llama-7b --revision {COMMIT}" in model


def test_tasks_and_the_encoder_of_questions_are_looked_for(tmp_path: Path) -> None:
    experiment = PARAMS.experiment("commonsense-prompts")
    task = experiment.task.model_copy(update={"model": str(tmp_path), "revision": None, "seen": ["boolq", "piqa"]})
    conditions = experiment.model.with_encoder(f"{tmp_path}/encoder")
    changed = experiment.model_copy(update={"task": task, "model": conditions})
    for name in ("boolq", "ARC-Challenge"):
        folder = tmp_path / "commonsense/dataset" / name
        folder.mkdir(parents=True)
        (folder / "train.json").touch()
        (folder / "test.json").touch()
    folder = tmp_path / "commonsense/dataset/piqa"
    assert prerequisites.missing(changed, str(tmp_path)) == [
        f"{folder}/train.json: no such file; correct task.seen and task.held_out",
        f"{folder}/test.json: no such file; correct task.seen and task.held_out",
        f"{tmp_path}/encoder: no such folder; correct encoder in model.conditions",
    ]
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").touch()
    reads = changed.task.reads("tune", changed)
    assert [*reads.values()] == [[tmp_path / "encoder/config.json"]]
    assert changed.task.reads("zoo", changed) == {}


def test_each_stage_asks_for_what_it_needs() -> None:
    experiment = PARAMS.experiment("imagenet-resnet18")
    assert len(prerequisites.missing(experiment, None, ["base", "zoo"])) == 2
    # Where the zoo is there, its networks' first weights are needed no more.
    assert prerequisites.missing(experiment, None, ["score"]) == [
        "data set 'imagenet': no data folder; set RPG_DATA, or data_root in params.yaml"
    ]


def test_nothing_is_missing_where_all_is_there(tmp_path: Path, monkeypatch) -> None:
    write_folders(tmp_path / "imagenet")
    known = ("timm/resnet18.tv_in1k", COMMIT)
    monkeypatch.setattr("rpg.utils.hub.on_hub", lambda *asked: asked == known)
    assert prerequisites.missing(pinned("imagenet-resnet18"), str(tmp_path)) == []
    assert len(prerequisites.missing(pinned("imagenet-resnet50"), str(tmp_path))) == 1


def test_files_of_weights_are_looked_for(tmp_path: Path) -> None:
    experiment = PARAMS.experiment("imagenet-resnet18")
    assert experiment.base
    weights = tmp_path / "weights.safetensors"
    given = experiment.model_copy(update={"base": experiment.base.model_copy(update={"weights": str(weights)})})
    assert prerequisites.missing(given, None)[1] == f"{weights}: no such file; correct base.weights"
    weights.touch()
    assert len(prerequisites.missing(given, None)) == 1


def test_every_network_of_timm_has_weights_to_be_had(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("rpg.utils.hub.on_hub", lambda repository, revision: asked.append(repository) or True)
    tree = resolve(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")["experiments"]
    names = [name for name, block in tree.items() if block["task"]["kind"] == "fine_tuning"]
    assert len(names) == 10
    for name in names:
        prerequisites.missing(pinned(name), None)
        assert asked[-1] == f"timm/{tree[name]['task']['network']['name']}"
