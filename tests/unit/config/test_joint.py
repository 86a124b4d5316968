"""The block of a joint experiment."""

from pathlib import Path

import pytest
import yaml
from conftest import joint_tree

from rpg.config.loading import load_params
from rpg.utils.errors import UserError


def write(folder: Path, tree: dict) -> Path:
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return folder / "params.yaml"


def test_the_recipe_is_an_experiment_with_changes(tmp_path: Path) -> None:
    params = load_params(
        write(tmp_path, joint_tree(changes={"model.backbone.positions": ["described"], "train.batch": 2}))
    )
    recipe = params.joint_recipe("both", 7)
    assert (recipe.train.batch, recipe.train.seed, recipe.tune.seed) == (2, 7, 7)
    assert params.experiment("narrow").train.batch == 3
    assert params.joint_experiment("both").experiments == ["narrow", "wide", "middle"]


POSITIONS = {"model.backbone.positions": ["2d", "learned", "described"]}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"members": ["narrow", "wid"]}, "joint.both.members: no experiment 'wid'; did you mean 'wide'?"),
        ({"recipe": "broad"}, "joint.both.recipe: no experiment 'broad'"),
        ({"unseen": ["wide"]}, "an experiment is listed twice among members and unseen"),
        ({"changes": {}}, "joint.both.changes: model.backbone.positions must hold described"),
        ({"changes": {**POSITIONS, "train.step": 1}}, "joint.both.changes: the experiment has no key 'train.step'"),
        ({"changes": {**POSITIONS, "model.start": "mean"}}, "joint.both.changes: model.start must be zero"),
        ({"changes": {**POSITIONS, "tune": None}}, "unseen architectures need across: true and a tune block"),
        ({"across": False}, "unseen architectures need across: true and a tune block"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, keys: dict, fault: str) -> None:
    path = write(tmp_path, joint_tree(**keys))
    with pytest.raises(UserError) as refused:
        load_params(path)
    assert fault in str(refused.value)


def test_members_have_one_token_width(tmp_path: Path) -> None:
    tree = joint_tree()
    tree["experiments"]["wide"]["tokens"]["width"] = 96
    with pytest.raises(UserError, match=r"members: wide has tokens\.width 96, and narrow has 80"):
        load_params(write(tmp_path, tree))


def test_an_unknown_joint_experiment_names_the_known_one(tmp_path: Path) -> None:
    params = load_params(write(tmp_path, joint_tree()))
    with pytest.raises(UserError, match="no joint experiment 'bot'; did you mean 'both'"):
        params.joint_experiment("bot")
