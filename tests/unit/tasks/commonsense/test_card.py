"""The card of adapters names the language model, with its commit if it is of the hub."""

from conftest import ADAPTERS

from rpg.config.experiment import parse_experiment
from rpg.tasks.commonsense.card import card


def test_card() -> None:
    task = parse_experiment(ADAPTERS).task
    text = card(task, "adapters")
    assert (text.network, text.library) == ("DoRA adapter (r = 2)", "peft")
    assert 'AutoModelForCausalLM.from_pretrained("results/adapters/base/0000")\n' in text.use
    assert 'PeftModel.from_pretrained(model, "results/adapters/samples/0000")' in text.use
    compile(text.use, "card", "exec")
    assert text.answer.startswith("Run the code in the folder of `params.yaml`; ")
    # The language model is made here, from a text without the test questions.
    assert text.split.startswith("whose questions neither the language model, nor the adapters, nor RPG ever saw")


def test_model_of_the_hub_has_its_commit() -> None:
    task = parse_experiment(ADAPTERS).task
    adapter = task.adapter.model_copy(update={"kind": "lora"})
    hub = task.model_copy(update={"model": "some/model", "revision": "0" * 40, "adapter": adapter})
    text = card(hub.model_copy(update={"data": "commonsense"}), "adapters")
    assert text.split == "whose questions neither the adapters nor RPG ever saw"
    assert text.network == "LoRA adapter (r = 2)"
    assert text.use.count(f'.from_pretrained("some/model", revision="{"0" * 40}")') == 2
