import sys
from pathlib import Path

import pytest
import torch
from conftest import openmmlab_task
from torchvision.ops import nms, roi_align

from rpg.tasks.config import Run
from rpg.tasks.openmmlab.config import RunnerBase, RunnerZoo
from rpg.utils.errors import UserError
from rpg.utils.rng import fix_arithmetic

SHIPPED = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"


def test_operations_without_a_compiler_are_torchvision_s(scenes: Path) -> None:
    assert openmmlab_task("detection").config.model.type == "MaskRCNN"
    if hasattr(sys.modules["mmcv._ext"], "__file__"):
        return
    from mmcv import ops

    draw = torch.Generator().manual_seed(0)
    corners = 40 * torch.rand(60, 2, generator=draw)
    boxes = torch.cat([corners, corners + 1 + 20 * torch.rand(60, 2, generator=draw)], 1)
    scores = torch.rand(60, generator=draw)
    kept, indices = ops.nms(boxes, scores, 0.3)
    assert indices.tolist() == nms(boxes, scores, 0.3).tolist()
    assert 1 < len(indices) < 60
    torch.testing.assert_close(kept, torch.cat([boxes, scores.unsqueeze(1)], 1)[indices])
    image, rois = torch.rand(1, 3, 32, 32, generator=draw), torch.cat([torch.zeros(60, 1), boxes], 1)
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    found, expected = ops.RoIAlign(5, 0.5, 2, "avg", True)(ours, rois), roi_align(theirs, rois, 5, 0.5, 2, True)
    torch.testing.assert_close(found, expected)
    weight = torch.rand(found.shape, generator=draw)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    with pytest.raises(UserError, match="'sigmoid_focal_loss_forward' is not compiled here"):
        ops.sigmoid_focal_loss(torch.rand(3, 2, requires_grad=True), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "workflow/configs/none.py"}, r"task.config: no file 'workflow/configs/none.py'"),
        ({"config": "mmseg::vit/none.py"}, "task.config: no file 'mmseg::vit/none.py'"),
        ({"config": "mmdet::mask_rcnn/none.py"}, r"task.config: no file '.*mmdet/.mim/configs/mask_rcnn/none.py'"),
        ({"overrides": {"model.backbone.type": "NoSuch"}}, "config '.*scenes-vitdet.py': .*NoSuch"),
        ({"overrides": {"model.roi_head.mask_head.num_classes": 7}}, "model.roi_head.mask_head.num_classes is 7, but"),
        ({"overrides": {"model.rpn_head.in_channels.deeper": 7}}, "config '.*scenes-vitdet.py': "),
        ({"validation": 22}, "task.validation: 22 of the 22 images in .* leave none to learn from"),
        (
            {"overrides": {"test_dataloader.dataset.metainfo.classes": [*"012345678", "ten"]}},
            r"annotations/instances_val2017.json knows no class 'ten'",
        ),
        ({"overrides": {"train_dataloader.dataset": {"type": "RepeatDataset", "dataset": {}}}}, "wraps its data set"),
    ],
)
def test_what_can_t_be_is_one_line(scenes: Path, changes: dict, message: str) -> None:
    task = openmmlab_task("detection", **changes)
    with pytest.raises(UserError, match=message) as raised:
        task.check()
    assert "\n" not in str(raised.value)


def test_shipped_config(scenes: Path) -> None:
    task = openmmlab_task("detection", config=SHIPPED)
    assert task.config.model.backbone.type == "ResNet"
    with pytest.raises(UserError, match=r"config 'mmdet::.*instances_train2017.json knows no class 'person'"):
        task.check()


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_missing_data_folder(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("RPG_DATA", raising=False)
    data = {"segmentation": "ade20k", "detection": "coco"}[kind]
    with pytest.raises(UserError, match=f"data set '{data}': no data folder; set RPG_DATA"):
        openmmlab_task(kind, data=data).check()
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"no such data folder; put {data} there"):
        openmmlab_task(kind, data=data).check()


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_validation_images_are_the_last_ones_and_no_network_learns_from_them(scenes: Path, kind: str) -> None:
    task = openmmlab_task(kind)
    data_sets = {split: task._dataset(split, task.indices[split]) for split in ("train", "validation", "test")}
    paths = {
        split: [data_set.get_data_info(index)["img_path"] for index in range(len(data_set))]
        for split, data_set in data_sets.items()
    }
    assert [len(of) for of in paths.values()] == [20, 2, 10]
    assert not {*paths["train"]} & {*paths["validation"]}
    assert max(paths["train"]) < min(paths["validation"])
    assert "val" in Path(paths["test"][0]).parent.name


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_training_gives_the_same_bytes_twice_and_starts_from_the_base(scenes: Path, kind: str) -> None:
    fix_arithmetic(1)
    base = RunnerBase(seeds=[0], steps=2, overrides={})
    zoo = RunnerZoo(seeds=[0, 1], runs_per_shard=1, steps=1, saves=2, save_every=1, overrides={})
    start = openmmlab_task(kind).train_base(base, 0)
    again = openmmlab_task(kind).train_base(base, 0)
    assert all(torch.equal(start[name], again[name]) for name in start)

    def train(seed: int, recipe: RunnerZoo) -> dict:
        saves = {}
        run = Run(seed=seed, code=None, held_out=False)
        openmmlab_task(kind).train(recipe, [run], [start], lambda step, states: saves.update({step: states[0]}))
        return saves

    first, second, other = train(0, zoo), train(0, zoo), train(1, zoo)
    assert list(first) == [2, 3]
    for step in (2, 3):
        assert all(torch.equal(first[step][name], second[step][name]) for name in start)
        assert any(not torch.equal(first[step][name], other[step][name]) for name in start)
    still = train(0, zoo.model_copy(update={"overrides": {"optim_wrapper.optimizer.lr": 0.0}}))
    learned = {name for name, _ in openmmlab_task(kind).network.named_parameters()}
    assert all(torch.equal(still[3][name], start[name]) for name in learned)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim_wrapper.optimizer.type": "NoSuch"}, r"config '.*scenes-upernet.py': base.overrides: "),
        ({"default_scope.deeper": 1}, r"config '.*scenes-upernet.py': base.overrides: "),
        ({"optim_wrapper.optimizer.lr.deeper": 1}, r"config '.*scenes-upernet.py': base.overrides: "),
    ],
)
def test_overrides_that_can_t_be_are_one_line(scenes: Path, overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        openmmlab_task("segmentation").train_base(RunnerBase(seeds=[0], steps=1, overrides=overrides), 0)
    assert "\n" not in str(raised.value)


def test_divergence_is_told(scenes: Path) -> None:
    base = RunnerBase(seeds=[0], steps=5, overrides={"optim_wrapper.optimizer.lr": 1e30})
    with pytest.raises(UserError, match=r"base: seed 0 diverged at step \d; lower its learning rate"):
        openmmlab_task("segmentation").train_base(base, 0)


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_weights_that_do_not_fit(scenes: Path, kind: str) -> None:
    task = openmmlab_task(kind)
    state_dict = dict(task.network.state_dict())
    del state_dict[next(iter(state_dict))]
    with pytest.raises(UserError, match=r"the weights do not fit the network of .*Missing key"):
        task.judge(state_dict, "test")


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_judging_leaves_the_generator_and_the_weights_as_they_are(scenes: Path, kind: str) -> None:
    task = openmmlab_task(kind)
    state_dict = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    torch.manual_seed(5)
    first = task.judge(state_dict, "validation")
    assert torch.initial_seed() == 5
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    second = task.judge(state_dict, "validation")
    assert first.scores == second.scores
    assert torch.equal(first.answers, second.answers)
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in task.network.state_dict().items())
