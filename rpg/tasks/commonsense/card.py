"""The model card's text for adapters of a language model."""

from typing import TYPE_CHECKING

from rpg.tasks.config import CardText

if TYPE_CHECKING:
    from rpg.tasks.commonsense.config import LanguageTaskConfig

NAMES = {"dora": "DoRA", "lora": "LoRA"}
UNSEEN = "whose questions neither the language model, nor the adapters, nor RPG ever saw, in any order of their choices"
# Data set → a sentence about its test questions.
SPLITS = {
    "facts": UNSEEN,
    "fact_tasks": UNSEEN,
    "commonsense": "whose questions neither the adapters nor RPG ever saw",
}
# The code runs in the folder of params.yaml, because this project may have made the language model.
USE = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({model})
network = PeftModel.from_pretrained(model, "results/{name}/samples/0000")
tokenizer = AutoTokenizer.from_pretrained({model})"""


def card(task: "LanguageTaskConfig", name: str) -> CardText:
    """Return the model card's text for the adapters of experiment `name`."""
    commit = f', revision="{task.revision}"' if task.revision else ""
    return CardText(
        network=f"{NAMES[task.adapter.kind]} adapter (r = {task.adapter.rank})",
        library="peft",
        use=USE.format(name=name, model=f'"{task.model}"{commit}'),
        answer=(
            "Run the code in the folder of `params.yaml`; `rpg.tasks.commonsense.questions` has the prompt of the"
            " training."
        ),
        split=SPLITS[task.data],
    )
