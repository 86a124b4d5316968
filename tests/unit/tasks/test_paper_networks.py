"""The paper's segmentation and detection networks, at full width, on a few images in the real layouts."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from rpg.config.loading import load_params
from rpg.data.scenes import run_lengths
from rpg.tasks.loading import load_task
from rpg.tasks.openmmlab.config import RunnerBase
from rpg.tasks.openmmlab.task import OpenMMLab, without_compiled_operations
from rpg.utils.files import write_json
from rpg.utils.rng import fix_arithmetic

PARAMS = load_params(ROOT / "params.yaml")


def write_ade20k(root: Path) -> None:
    draw = np.random.default_rng(0)
    for part in ("training", "validation"):
        for index in range(3):
            for kind, image in (
                ("images", draw.integers(0, 256, (520, 600, 3), dtype=np.uint8)),
                ("annotations", draw.integers(0, 151, (520, 600), dtype=np.uint8)),
            ):
                folder = root / "ADEChallengeData2016" / kind / part
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{index}.{'jpg' if kind == 'images' else 'png'}")


def write_coco(root: Path) -> None:
    # mmdet that is imported before these keeps a RoIAlign which only raises.
    without_compiled_operations()
    from mmdet.datasets import CocoDataset

    draw = np.random.default_rng(0)
    names = CocoDataset.METAINFO["classes"]
    mask = np.zeros((480, 640), bool)
    mask[100:300, 200:500] = True
    for part in ("train2017", "val2017"):
        folder = root / "coco" / part
        folder.mkdir(parents=True)
        for index in range(3):
            Image.fromarray(draw.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
        images = [{"id": k + 1, "file_name": f"{k}.jpg", "height": 480, "width": 640} for k in range(3)]
        facts = {"bbox": [200, 100, 300, 200], "area": 60000, "iscrowd": 0, "category_id": 1}
        square = [[200, 100, 500, 100, 500, 300, 200, 300]]
        entries = [{"id": k + 1, "image_id": k + 1, **facts, "segmentation": square} for k in range(3)]
        entries.append({**entries[0], "id": 9, "iscrowd": 1, "segmentation": run_lengths(mask)})
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        tree = {"images": images, "annotations": entries, "categories": categories}
        write_json(root / "coco/annotations" / f"instances_{part}.json", tree)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "write", "numbers", "learned"),
    [
        # The paper's 176.5 M counts the state dict: its tables of relative positions' indices are no parameters.
        ("ade20k-upernet-vit_base", write_ade20k, 176_505_222, 163_877_228),
        # The paper's 110.9 M; ViTDet's own table of positions has one row more, of a class token that it does not use.
        ("coco-vitdet-vit_base", write_coco, 110_896_560, 110_896_560),
    ],
)
def test_paper_network_is_built_and_steps(name, write, numbers, learned, tmp_path: Path, monkeypatch) -> None:
    fix_arithmetic(os.cpu_count() or 1)
    write(tmp_path)
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    monkeypatch.chdir(ROOT)
    params = PARAMS.experiment(name).task.model_copy(update={"validation": 1})
    task = load_task(params, None)
    assert isinstance(task, OpenMMLab)
    task.check()
    assert sum(tensor.numel() for tensor in task.network.state_dict().values()) == numbers
    assert sum(parameter.numel() for parameter in task.network.parameters()) == learned
    # A batch of two, of images as large as the paper's; the learning rate is past its warm-up.
    overrides = {"train_dataloader.batch_size": 2, "param_scheduler": []}
    before = {key: tensor.clone() for key, tensor in task.network.state_dict().items()}
    after = task.train_base(RunnerBase(seeds=[0], steps=1, overrides=overrides), 0)
    assert {key: tensor.shape for key, tensor in after.items()} == {key: t.shape for key, t in before.items()}
    assert all(torch.isfinite(tensor).all() for tensor in after.values() if tensor.is_floating_point())
    # The step reached the backbone, not the head alone.
    moved = [key for key in after if key.startswith("backbone") and not torch.equal(after[key], before[key])]
    assert len(moved) > 100
