"""A config of OpenMMLab as literals, which are read and not run."""

from pathlib import Path

import pytest
from mmengine.config import Config

from rpg.tasks.openmmlab.literal import read_literals, write_literals
from rpg.tasks.openmmlab.task import without_compiled_operations
from rpg.utils.errors import UserError


@pytest.fixture(autouse=True)
def _toolbox() -> None:
    without_compiled_operations()
    from mmdet.utils import register_all_modules

    register_all_modules()


def test_literals_come_back_as_they_were(tmp_path: Path) -> None:
    tree = {"model": {"type": "mmdet.MaskRCNN", "scale": (640, 480), "rate": 1e-3, "of": [None, True, "x"]}, "n": -2}
    write_literals(Config(tree), tmp_path / "network.py")
    assert read_literals(tmp_path / "network.py") == tree
    # mmengine reads the same file.
    assert Config.fromfile(tmp_path / "network.py").to_dict() == tree


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os", "line 1 is no assignment"),
        ("x = dict(type='ResNet')", "malformed node"),
        ("x = [", "was never closed"),
        ("x = {'a': [{'type': 'os.getcwd'}]}", "type 'os.getcwd': no class of OpenMMLab"),
        ("x = {'type': 'rpg.cli.main'}", "type 'rpg.cli.main': no class of OpenMMLab"),
        ("x = {'type': 3}", "type '3': no class of OpenMMLab"),
        ("custom_imports = {'imports': ['this']}", "custom_imports: the network needs modules"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "network.py").write_text(text)
    with pytest.raises(UserError, match=why) as raised:
        read_literals(tmp_path / "network.py")
    assert "\n" not in str(raised.value)
