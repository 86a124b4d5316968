import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import openmmlab_task
from PIL import Image
from safetensors.torch import load_file

from rpg.tasks.segmentation.task import GRID
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize, tokenize
from rpg.utils.errors import UserError


def labels_of(folder: Path, part: str) -> list[np.ndarray]:
    """Read without mmseg: 255 where there is no label, the background's 0 and the digit k's k + 1."""
    files = sorted((folder / "results/scenes/ADEChallengeData2016/annotations" / part).iterdir())
    labels = [np.asarray(Image.open(file)).astype(int) for file in files]
    return [np.where(one == 0, 255, one - 1) for one in labels]


def test_metrics_are_those_of_the_labels(scenes: Path) -> None:
    task = openmmlab_task("segmentation")
    state_dict = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    # Answers that differ from place to place: a network that has learned nothing, its head turned up.
    state_dict["decode_head.conv_seg.weight"] *= 300
    found = task.judge(state_dict, "test")
    batches, _ = task.loaded("test")
    predicted = []
    task.network.load_state_dict(state_dict)
    with torch.inference_mode():
        for batch in batches:
            for sample in task.network.test_step(copy.deepcopy(batch)):
                predicted.append(sample.pred_sem_seg.data[0].numpy())
    truth = labels_of(scenes, "validation")
    t, p = (np.concatenate([one.ravel() for one in many]) for many in (truth, predicted))
    p, t = p[t != 255], t[t != 255]
    ious, recalls = [], []
    for label in range(11):
        union = ((t == label) | (p == label)).sum()
        ious += [((t == label) & (p == label)).sum() / union] if union else []
        recalls += [(p[t == label] == label).mean()] if (t == label).any() else []
    assert len(set(p.tolist())) > 1
    expected = {"mIoU": np.mean(ious), "mAcc": np.mean(recalls), "aAcc": (t == p).mean()}
    assert found.scores == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=0.006)


def test_answers_are_of_a_grid_of_pixels_without_those_that_have_no_label(scenes: Path) -> None:
    task = openmmlab_task("segmentation")
    places = ((np.arange(GRID) + 0.5) * 32 / GRID).astype(int)
    expected = np.concatenate([labels[np.ix_(places, places)].ravel() for labels in labels_of(scenes, "validation")])
    assert task.targets("test").tolist() == expected[expected != 255].tolist()
    answers = task.judge(dict(task.network.state_dict()), "test").answers
    assert answers.shape == task.targets("test").shape
    assert answers.dtype == torch.int64


def test_labels_fed_back_score_a_hundred(scenes: Path) -> None:
    task = openmmlab_task("segmentation")
    batches, evaluator = task.loaded("test")
    for batch in batches:
        samples = copy.deepcopy(batch["data_samples"])
        for sample in samples:
            # Where there is no label any answer is right.
            sample.pred_sem_seg = sample.gt_sem_seg
            assert (task.answer(sample) == task.target(sample)).all()
        evaluator.process(data_samples=samples, data_batch=batch)
    assert task.percent(evaluator.evaluate(10), "test") == {"aAcc": 100.0, "mIoU": 100.0, "mAcc": 100.0}


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_every_tensor_round_trips(scenes: Path, tmp_path: Path, kind: str) -> None:
    """Through a file, and through tokens."""
    task = openmmlab_task(kind)
    state_dict = dict(task.network.state_dict())
    of_kind = {"segmentation": {"num_batches_tracked", "running_mean"}, "detection": {"rel_pos_h"}}
    assert of_kind[kind] <= {name.rpartition(".")[2] for name in state_dict}
    path = task.write(tmp_path / "network", {name: tensor.clone() for name, tensor in state_dict.items()})
    assert task.judge(load_file(path), "validation").scores == task.judge(state_dict, "validation").scores
    layout = Layout.of(state_dict, 512)
    stats = Stats.of(layout, [state_dict])
    skipped = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}
    back = detokenize(tokenize(state_dict, layout, stats), layout, stats, skipped)
    assert list(back) == list(state_dict)
    for name, tensor in state_dict.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=1e-6 * float(tensor.abs().max()))


def test_pictures(scenes: Path) -> None:
    task = openmmlab_task("segmentation")
    first, second = task.pictures(dict(task.network.state_dict()), 2)
    labels = labels_of(scenes, "training")[-2]
    assert first.image.shape == (32, 32, 3)
    folder = scenes / "results/scenes/ADEChallengeData2016/images/training"
    assert (first.image == np.asarray(Image.open(folder / "ADE_train_00000021.jpg"))).mean() > 0.99
    assert (first.image != second.image).any()
    assert {region.index: region.mask.sum() for region in first.truth} == {
        int(index): (labels == index).sum() for index in np.unique(labels) if index != 255
    }
    assert {region.name for region in first.truth} <= {"background", *"0123456789"}
    assert sum(region.mask.sum() for region in first.predicted) == 32 * 32


def test_label_that_the_data_set_has_no_class_for(scenes: Path) -> None:
    names = tuple(map(str, range(10)))
    changes = {f"{loader}.dataset.metainfo.classes": names for loader in ("train_dataloader", "test_dataloader")}
    heads = {f"model.{head}.num_classes": 10 for head in ("decode_head", "auxiliary_head")}
    with pytest.raises(UserError, match=r"ADE_train_0000\d+.png has label 10, but the data set has 10 classes"):
        openmmlab_task("segmentation", overrides={**changes, **heads}).check()
