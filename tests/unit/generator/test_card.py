"""The model card of a packed generator."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from rpg.cli import main


@pytest.fixture(scope="module")
def packed_once(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed generator of networks with task codes."""
    folder = tmp_path_factory.mktemp("packed") / "packed"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tasks)
        main(["pack", "--experiment", "tasks", "--out", str(folder), "--no-graph"])
    return folder


@pytest.fixture
def taken(packed_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with another folder as working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def test_the_card_is_one_of_the_hub(taken: Path) -> None:
    card = ModelCard.load(taken / "README.md")
    assert card.data.library_name == "rpg"
    assert card.data.eval_results
    assert "generator.generate(classes=[3, 8], seed=1)" in card.text
    assert "a training run of the zoo, 0 to 1" in card.text
    assert "| originals | " in card.text
