"""The code in a card makes the network that a sample fits."""

import pytest
import timm
from conftest import MINIATURE, TASKS

from rpg.config.experiment import parse_experiment
from rpg.tasks.classification.card import card, timm_call


def test_arguments_as_python_writes_them() -> None:
    assert timm_call("resnet18", {"in_chans": 1, "stem_type": "deep", "layers": [1, 1]}) == (
        "'resnet18', in_chans=1, stem_type='deep', layers=[1, 1]"
    )


@pytest.mark.parametrize(
    ("tree", "classes", "answer"),
    [
        (MINIATURE, 10, "the answer is the class."),
        (TASKS, 2, "answer 1 says that the image's class is one of those whose bit in the task code is 1."),
    ],
)
def test_card(tree: dict, classes: int, answer: str) -> None:
    text = card(parse_experiment(tree).task)
    assert (text.network, text.library) == ("resnet18", "timm")
    assert text.answer == f"Images are resized to 8 × 8 pixels; {answer}"
    assert text.split == "which neither the zoo's networks nor RPG ever saw"
    (line,) = (line for line in text.use.splitlines() if line.startswith("network ="))
    namespace: dict = {"timm": timm}
    exec(line, namespace)
    assert namespace["network"].num_classes == classes
    assert text.use.endswith('network.load_state_dict(load_file("samples/0000.safetensors"))')


def test_networks_of_this_repository_are_imported_first() -> None:
    own = {**MINIATURE, "task": {**MINIATURE["task"], "network": {"name": "cnn_small", "arguments": {"in_chans": 1}}}}
    use = card(parse_experiment(own).task).use
    assert use.startswith("import timm\nimport rpg.tasks.classification.networks\n")
