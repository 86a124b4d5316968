"""The block model.generator: kinds, and what an experiment with another generator may not have."""

import re
from pathlib import Path

import pytest
from conftest import MINIATURE, SHOWN, TASKS, write_tree
from peers import PEERS

from rpg.config.experiment import Experiment, parse_experiment
from rpg.config.loading import load_params
from rpg.config.peers import PDiffParams, SANEParams
from rpg.utils.errors import UserError


def tree(**changes: object) -> dict:
    return {**MINIATURE, "model": {**MINIATURE["model"], "generator": PEERS["flow"]}, **changes}


def test_default_is_rpg_and_dumps_as_before() -> None:
    experiment = parse_experiment(MINIATURE)
    assert experiment.model.generator is None
    assert "generator" not in experiment.model_dump()["model"]


@pytest.mark.parametrize("kind", PEERS)
def test_each_kind_is_read_as_its_own_block(kind: str) -> None:
    experiment = parse_experiment({**tree(), "model": {**MINIATURE["model"], "generator": PEERS[kind]}})
    assert experiment.model.generator is not None
    assert experiment.model.generator.model_dump() == PEERS[kind]


@pytest.mark.parametrize(
    ("blocks", "fault"),
    [
        ({"tune": TASKS["tune"]}, "tune: needs RPG, and model.generator is another one"),
        (
            {
                "model": {
                    **tree()["model"],
                    "conditions": [{"kind": "vector", "field": "step", "hidden": 8, "reach": "all"}],
                }
            },
            "model.conditions: model.generator knows no vector",
        ),
        ({"model": {**tree()["model"], "generator": {**PEERS["flow"], "kind": "gan"}}}, "gan"),
        ({"model": {**tree()["model"], "generator": {**PEERS["flow"], "speed": 1}}}, "speed"),
    ],
)
def test_what_does_not_fit_is_refused(blocks: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        parse_experiment(tree(**blocks))


def test_images_are_for_generators_with_a_set_encoder() -> None:
    """Those generators learn from images in train, as RPG does in tune alone."""
    others = {"tune": None, "hypernetwork": None, "prompts": None, "train": {**SHOWN["train"], "steps": 5}}

    def shown(kind: str) -> Experiment:
        return parse_experiment({**SHOWN, **others, "model": {**SHOWN["model"], "generator": PEERS[kind]}})

    assert shown("d2nwg").images is not None
    for kind in ("gaussian", "sane"):
        with pytest.raises(ValueError, match=f"the generator {kind} knows no images"):
            shown(kind)
    with pytest.raises(ValueError, match="images can be read in tune alone"):
        parse_experiment({**SHOWN, **others})


def test_every_key_has_its_range() -> None:
    assert PDiffParams.model_validate(PEERS["p_diff"]).stride == 3
    with pytest.raises(ValueError, match="multiple of 8"):
        SANEParams.model_validate({**PEERS["sane"], "width": 12})


def test_another_generator_is_for_variants_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, mini=tree())
    with pytest.raises(UserError, match=r"experiments\.mini\.model\.generator: only a variant of an ablation"):
        load_params(tmp_path / "params.yaml")
