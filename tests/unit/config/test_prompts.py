"""Images or questions as a condition: what an experiment needs for them."""

import copy
from typing import Any

import pytest
from conftest import ASKED, SETTINGS, SHOWN

from rpg.config.loading import check_params
from rpg.config.params import Params
from rpg.utils.errors import UserError


def checked(change: Any = lambda tree: None, tree: Any = SHOWN, name: str = "shown") -> Params:
    tree = copy.deepcopy(tree)
    change(tree)
    return check_params({**SETTINGS, "run": [name], "experiments": {name: tree}})


def test_what_is_measured() -> None:
    experiment = checked().experiment("shown")
    assert experiment.prompts
    assert experiment.prompts.images == [1, 3]
    assert experiment.images
    assert experiment.images.features == 18
    assert experiment.has("images")
    assert "prompts" in experiment.stages()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.update(base=None), "images needs task.kind task_codes and a base block of one seed"),
        (lambda t: t["zoo"].update(seeds=[0, 1]) or t["base"].update(seeds=[5, 6]), "a base block of one seed"),
        (lambda t: t["model"]["conditions"].pop(0), "images needs another condition"),
        (
            lambda t: t["model"]["conditions"].append({"kind": "task_code", "hidden": 4, "reach": "all"}),
            "images needs another condition, such as permutation_state, no task_code",
        ),
        (
            lambda t: t["train"].update(steps=5),
            "images can be read in tune alone; add the block, and set train.steps to 0",
        ),
        (lambda t: t["sample"].pop("images"), "sample.images: missing; images needs it"),
        (lambda t: t["model"]["conditions"].pop(1), "sample.images: needs the condition images"),
        (
            lambda t: t["model"]["conditions"].pop(1) and t["sample"].pop("images"),
            "prompts: needs the condition images or text",
        ),
        (lambda t: t["task"].update(hidden=[8, 12]), "hidden: must be some of the classes, 0 to 9"),
        (lambda t: t["task"].update(hidden=[1, 2]), "held_out: 314 needs 0 for the hidden classes"),
        (lambda t: t["prompts"].update(data=["letters"]), "prompts.data"),
    ],
)
def test_faults_are_one_line(change: Any, fault: str) -> None:
    with pytest.raises(UserError) as error:
        checked(change)
    assert fault in str(error.value)


def test_codes_of_visible_classes() -> None:
    """No seen code has a bit for a hidden class, or is a held-out task with swapped answers."""
    # 32 is 0000100000, and 828 is 1100111100.
    changes = {"hidden": [8, 9], "held_out": [32, 828], "seen": 200}
    task = checked(lambda t: t["task"].update(changes)).experiment("shown").task
    seen = task.seen_codes()
    assert len({*seen}) == 200
    for code in seen:
        assert code[8:] == "00"
        assert {*code[:8]} == {"0", "1"}
    assert not {"0000100000", "1111011100", "1100111100", "0011000000"} & {*seen}
    assert task.hidden_classes == [8, 9]
    assert task.visible_classes == [*range(8)]


def test_what_is_measured_for_questions() -> None:
    experiment = checked(tree=ASKED, name="asked").experiment("asked")
    assert experiment.prompts
    assert experiment.prompts.questions == [1, 4]
    assert experiment.model.text
    assert experiment.images is None
    assert experiment.has("text")
    assert not experiment.has("images")
    assert "prompts" in experiment.stages()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t["sample"].pop("questions"), "sample.questions: missing; text needs it"),
        (lambda t: t["sample"].update(images=3), "sample.images: needs the condition images"),
        (lambda t: t["model"]["conditions"].pop(1), "sample.questions: needs the condition text"),
        (lambda t: t["model"]["conditions"].pop(0), "text needs another condition"),
        (lambda t: t["train"].update(steps=5), "text can be read in tune alone"),
        (lambda t: t.update(prompts=SHOWN["prompts"]), "prompts: these are the keys of another prompt"),
        (lambda t: t["prompts"].update(nearest=1), "prompts.nearest"),
        (lambda t: t["prompts"].update(nearest=5), "prompts.nearest: 5 of 4 seen tasks; set fewer"),
        (lambda t: t["prompts"].update(examples=[4, 8]), "examples: 8 is not in questions"),
        (
            lambda t: t["prompts"].update(new=["speed-faster-trut"]),
            "prompts.new: 'speed-faster-trut' is no held-out task; did you mean 'speed-faster-truth'?",
        ),
        (lambda t: t["tune"].update(absent=0.5), "tune.absent: needs the condition images"),
        (lambda t: t["task"].update(seen=["size-bigger-truth"] * 2), "'size-bigger-truth' is listed twice"),
        (lambda t: t["task"].update(held_out=[]), "task.held_out"),
        (
            lambda t: t["model"]["conditions"].append(SHOWN["model"]["conditions"][1]),
            "a model takes one prompt, of images or of text",
        ),
        (
            lambda t: (
                t["model"]["conditions"].__setitem__(1, SHOWN["model"]["conditions"][1])
                or t["sample"].update(images=3)
                or t["sample"].pop("questions")
            ),
            "task.kind adapter_tasks knows no images",
        ),
    ],
)
def test_faults_of_questions_are_one_line(change: Any, fault: str) -> None:
    with pytest.raises(UserError) as error:
        checked(change, ASKED, "asked")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
