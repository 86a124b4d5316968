"""The model card of a packed generator."""

from pathlib import Path

from huggingface_hub import ModelCard


def test_the_card_is_one_of_the_hub(taken: Path) -> None:
    card = ModelCard.load(taken / "README.md")
    assert card.data.library_name == "rpg"
    assert card.data.eval_results
    assert "generator.generate(classes=[3, 8], seed=1)" in card.text
    assert "a training run of the zoo, 0 to 1" in card.text
    assert "| originals | " in card.text
