import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, openmmlab_task
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from rpg.tasks.base import Task
from rpg.tasks.config import Run
from rpg.tasks.detection.task import NAMES
from rpg.tasks.openmmlab.config import RunnerBase, RunnerZoo

REAL = next(
    (
        folder
        for folder in (os.environ.get("RPG_DATA"), ROOT.parent / "shared/data")
        if folder and (Path(folder) / "coco").is_dir()
    ),
    None,
)


def annotations(task: Task, part: str) -> COCO:
    return COCO(task.folder / f"annotations/instances_{part}.json")


def fed_back(task: Task, split: str) -> dict[str, float]:
    """The metrics of predictions that are the ground truth itself."""
    batches, evaluator = task.loaded(split)
    count = 0
    for batch in batches:
        samples = copy.deepcopy(batch["data_samples"])
        for sample in samples:
            truth = sample.gt_instances
            shape = sample.ori_shape
            masks = truth.masks.to_tensor(torch.bool, "cpu").reshape(-1, *shape)
            boxes = getattr(truth.bboxes, "tensor", truth.bboxes)
            scores = torch.ones(len(truth.labels))
            sample.pred_instances = InstanceData(bboxes=boxes, labels=truth.labels, scores=scores, masks=masks)
            count += 1
        evaluator.process(data_samples=samples, data_batch=batch)
    found = evaluator.evaluate(count)
    assert {name for name, value in found.items() if value >= 0} == {
        f"coco/{name}" for name in NAMES if NAMES[name] in task.percent({}, split)
    }
    return task.percent({name.partition("/")[2]: value for name, value in found.items()}, split)


def test_ground_truth_fed_back_scores_a_hundred(scenes: Path) -> None:
    task = openmmlab_task("detection")
    scores = fed_back(task, "test")
    assert {scores[f"{kind} {ap}"] for kind in ("bbox", "segm") for ap in ("mAP", "AP50", "AP75")} == {100.0}
    # Nothing in 32 × 32 pixels is as large as COCO's large objects.
    assert "bbox AP large" not in scores


def test_answers_leave_crowds_out(scenes: Path) -> None:
    task = openmmlab_task("detection")
    coco = annotations(task, "val2017")
    entries = coco.loadAnns(coco.getAnnIds())
    assert sum(entry["iscrowd"] for entry in entries) == 1
    digits = [int(coco.loadCats(entry["category_id"])[0]["name"]) for entry in entries if not entry["iscrowd"]]
    assert task.targets("test").tolist() == digits


def test_answer_is_the_surest_box_at_the_object_s_place() -> None:
    task = openmmlab_task("detection")
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    found = torch.tensor([[0.0, 0, 10, 9], [0, 1, 10, 10], [20, 20, 30, 24]])

    class Sample:
        gt_instances = InstanceData(bboxes=truth, labels=torch.tensor([3, 4, 5]))
        pred_instances = InstanceData(
            bboxes=found, labels=torch.tensor([7, 3, 4]), scores=torch.tensor([0.4, 0.9, 0.99])
        )

    # The second object's box overlaps by too little, the third has none.
    assert task.answer(Sample).tolist() == [3, -1, -1]
    Sample.pred_instances.scores[0] = 0.95
    assert task.answer(Sample).tolist() == [7, -1, -1]


def test_detections_in_a_crowd_count_for_nothing(scenes: Path) -> None:
    """As pycocotools does it: found in a crowd region is neither right nor wrong, anywhere else it is wrong."""
    task = openmmlab_task("detection")
    coco = annotations(task, "val2017")
    (crowd,) = [entry for entry in coco.loadAnns(coco.getAnnIds()) if entry["iscrowd"]]
    aps = []
    for inside in (True, False):
        batches, evaluator = task.loaded("test")
        for batch in batches:
            samples = copy.deepcopy(batch["data_samples"])
            for sample in samples:
                truth = sample.gt_instances
                masks = truth.masks.to_tensor(torch.bool, "cpu").reshape(-1, 32, 32)
                labels, scores = truth.labels, 0.5 * torch.ones(len(truth.labels))
                boxes = getattr(truth.bboxes, "tensor", truth.bboxes)
                if sample.img_id == crowd["image_id"]:
                    label = int(coco.loadCats(crowd["category_id"])[0]["name"])
                    mask = torch.from_numpy(coco.annToMask(crowd)).bool()
                    mask = mask if inside else ~mask
                    rows, columns = mask.nonzero().T
                    box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
                    labels, scores = torch.cat([labels, torch.tensor([label])]), torch.cat([scores, torch.ones(1)])
                    masks, boxes = torch.cat([masks, mask[None]]), torch.cat([boxes, box[None]])
                sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=scores, masks=masks)
            evaluator.process(data_samples=samples, data_batch=batch)
        found = evaluator.evaluate(10)
        aps.append((found["coco/bbox_mAP"], found["coco/segm_mAP"]))
    assert aps[0] == (1.0, 1.0)
    assert max(aps[1]) < 1.0


def test_relative_position_tables_and_every_metric_are_there(scenes: Path) -> None:
    task = openmmlab_task("detection")
    state_dict = dict(task.network.state_dict())
    assert "backbone.network.blocks.0.attn.rel_pos_h" in state_dict
    scores = task.judge(state_dict, "test").scores
    assert {"bbox mAP", "bbox AP50", "segm mAP", "segm AP small"} <= scores.keys()
    assert list(scores) == [name for name in task.metrics if name in scores]
    assert all(0 <= score <= 100 for score in scores.values())


@pytest.mark.parametrize("side", [pytest.param(32, marks=pytest.mark.integration), 48])
def test_main_metric_alone_is_that_of_the_whole_evaluation(scenes: Path, monkeypatch, side: int) -> None:
    """Without making masks, and also of images that are resized, whose boxes have to be scaled back."""
    read, truth = {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
    resize = {"type": "Resize", "scale": (side, side), "keep_ratio": True}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pack = {"type": "PackDetInputs", "meta_keys": keys}
    # Training takes boxes to where the image is scaled to, a test leaves them.
    pipelines = {"train": [read, truth, resize, pack], "test": [read, resize, truth, pack]}
    overrides = {f"{split}_dataloader.dataset.pipeline": steps for split, steps in pipelines.items()}
    task = openmmlab_task("detection", overrides=overrides)
    # A network that has learned a little, so that something is found.
    state_dict = task.train_base(RunnerBase(seeds=[0], steps=30, overrides={}), 0)
    whole = task.judge(state_dict, "test")
    assert whole.scores["bbox mAP"] > 0
    assert set(whole.answers.tolist()) > {-1}
    with monkeypatch.context() as patch:
        patch.setattr(type(task.network.roi_head), "_mask_forward", pytest.fail)
        alone = task.judge(state_dict, "test", main_only=True)
    assert alone.scores == {"bbox mAP": whole.scores["bbox mAP"]}
    assert torch.equal(alone.answers, whole.answers)
    with pytest.raises(KeyError), task.main_metric_only(task.loaded("test")[1]):
        raise KeyError
    assert task.judge(state_dict, "test").scores == whole.scores


def test_network_that_finds_nothing_scores_nothing(scenes: Path) -> None:
    task = openmmlab_task("detection")
    state_dict = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    # Sure that everything is background.
    state_dict["roi_head.bbox_head.fc_cls.weight"].zero_()
    state_dict["roi_head.bbox_head.fc_cls.bias"].copy_(100.0 * (torch.arange(11) == 10))
    found = task.judge(state_dict, "test")
    assert set(found.scores.values()) == {0.0}
    assert found.scores.keys() == fed_back(task, "test").keys()
    assert set(found.answers.tolist()) == {-1}


def test_pictures(scenes: Path) -> None:
    task = openmmlab_task("detection")
    (picture,) = task.pictures(dict(task.network.state_dict()), 1)
    coco = annotations(task, "train2017")
    entries = [entry for entry in coco.loadAnns(coco.getAnnIds(imgIds=[21])) if not entry["iscrowd"]]
    for region, entry in zip(picture.truth, entries, strict=True):
        assert region.name == coco.loadCats(entry["category_id"])[0]["name"]
        overlap = (region.mask & coco.annToMask(entry).astype(bool)).sum() / region.mask.sum()
        assert overlap > 0.95


@pytest.mark.long
@pytest.mark.parametrize(
    "root",
    ["scenes", pytest.param(REAL, marks=pytest.mark.skipif(REAL is None, reason="no real COCO here"), id="coco")],
)
def test_real_images_through_loader_epoch_and_metric(scenes: Path, monkeypatch, root: str) -> None:
    """COCO's own images where they are, with all of their 80 classes, as the miniature's."""
    changes = {}
    if root != "scenes":
        monkeypatch.setenv("RPG_DATA", str(root))
        names = tuple(json.loads((Path(root) / "coco/annotations/instances_val2017.json").read_text())["categories"])
        small = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (128, 128), "keep_ratio": False}]
        load = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pack = {"type": "PackDetInputs", "meta_keys": keys}
        overrides = {
            "model.roi_head.bbox_head.num_classes": 80,
            "model.roi_head.mask_head.num_classes": 80,
            "model.backbone.arguments.img_size": 128,
            "train_dataloader.dataset.pipeline": [small[0], load, small[1], pack],
            "test_dataloader.dataset.pipeline": [*small, load, pack],
            **{
                f"{loader}.dataset.metainfo.classes": tuple(name["name"] for name in names)
                for loader in ("train_dataloader", "test_dataloader")
            },
        }
        changes = {"data": "coco", "validation": 16, "overrides": overrides}
    task = openmmlab_task("detection", **changes)
    task.check()
    learned = len(task.indices["train"])
    saves = []
    recipe = RunnerZoo(seeds=[0], runs_per_shard=1, steps=learned // 8, saves=1, save_every=1, overrides={})
    run = Run(seed=0, code=None, held_out=False)
    task.train(recipe, [run], [None], lambda step, states: saves.append((step, states[0])))
    ((step, state_dict),) = saves
    assert step == learned // 8 + 1
    found = task.judge(state_dict, "test")
    coco = annotations(task, "val2017")
    entries = coco.loadAnns(coco.getAnnIds())
    assert len(found.answers) == sum(not entry["iscrowd"] for entry in entries)
    assert any(entry["iscrowd"] for entry in entries)
    assert 0 <= found.scores["bbox mAP"] < 100
    truth = fed_back(task, "test")
    assert {truth["bbox mAP"], truth["segm mAP"]} == {100.0}
    assert np.isfinite(list(truth.values())).all()
