"""The card of networks of one's own names the functions that build and score them."""

from conftest import GIVEN

from rpg.config.experiment import parse_experiment
from rpg.tasks.custom.card import card

TASK = parse_experiment(GIVEN).task


def test_card_of_networks() -> None:
    text = card(TASK, "given", adapters=False)
    assert (text.network, text.library) == ("`theirs.network:build`", "pytorch")
    assert text.use == (
        "from theirs.network import build\nfrom safetensors.torch import load_file\n\nnetwork = build()\n"
        'network.load_state_dict(load_file("results/given/samples/0000.safetensors"))'
    )
    assert text.split == "as `theirs.network:score` defines it"


def test_card_of_adapters() -> None:
    text = card(TASK, "given", adapters=True)
    assert text.library == "peft"
    sample = '"results/given/samples/0000/adapter_model.safetensors"'
    assert text.use.endswith(f"set_peft_model_state_dict(network, load_file({sample}))")
    compile(text.use, "card", "exec")
