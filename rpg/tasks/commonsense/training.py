"""Train a language model or its adapter by transformers' Trainer.

L tokens of a text.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rpg.tasks.commonsense.config import AdapterZoo, LanguageBase
from rpg.tasks.commonsense.packing import IGNORED, Packed
from rpg.utils.device import device
from rpg.utils.errors import Diverged
from rpg.utils.progress import LastLoss, progress


def text_rows(
    text: Any, parts: Sequence[tuple[str, str]], learn_start: bool = False, length: int | None = None
) -> list[dict[str, list[int]]]:
    """Return the tokens and labels of texts (start, end), truncated to `length`.

    The loss covers the ends only, or, with `learn_start`, the whole texts.
    """
    starts = text([start for start, _ in parts])["input_ids"]
    wholes = text([start + end if start[-1:].isspace() else f"{start} {end}" for start, end in parts])["input_ids"]
    rows = []
    for first, whole in zip(starts, wholes, strict=True):
        tokens = [*whole, text.eos_token_id]
        labels = tokens if learn_start else [IGNORED] * len(first) + tokens[len(first) :]
        rows.append({"input_ids": tokens[:length], "labels": labels[:length]})
    return rows


def language_config(base: LanguageBase, text: Any) -> Any:
    """Return the configuration of the Llama that `base` describes, for the tokenizer `text`."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(text),
        hidden_size=base.width,
        intermediate_size=base.hidden,
        num_hidden_layers=base.blocks,
        num_attention_heads=base.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        # With transformers' default of 0.02, so narrow a model needs thousands of steps to learn its first fact.
        initializer_range=0.1,
        # No text has more than a hundred tokens, and lower frequencies than theirs tell no two of them apart.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def train_language_model(
    model: Any,
    rows: list[dict[str, list[int]]],
    text: Any,
    recipe: LanguageBase | AdapterZoo,
    steps: int,
    what: str,
    seed: int,
    at: Sequence[int],
    save: Any,
) -> None:
    """Train for `steps` steps by transformers' Trainer (AdamW, linear schedule) and call `save` at the steps `at`.

    The learning rate of a language model falls to 0, that of an adapter to its `final_learning_rate`.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    last = LastLoss()
    shown = progress(range(steps), what, total=steps, note=last)

    class SaveAndReport(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in at:
                save(state.global_step)
            next(shown, None)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            next(shown, None)

    class StopAtDivergence(Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            loss = super().training_step(*arguments, **named)
            if not torch.isfinite(loss):
                raise Diverged(f"{what} diverged at step {self.state.global_step + 1}; lower its learning_rate")
            last.of(loss)
            return loss

    schedule: dict[str, Any] = {}
    if isinstance(recipe, AdapterZoo) and recipe.final_learning_rate:
        # transformers' linear schedule always ends at 0.
        schedule = {
            "lr_scheduler_type": "polynomial",
            "lr_scheduler_kwargs": {"power": 1.0, "lr_end": recipe.final_learning_rate},
        }
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate,
            warmup_steps=recipe.warmup,
            weight_decay=recipe.weight_decay,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            seed=seed % 2**32,
            bf16=device().type == "cuda",
            use_cpu=device().type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **schedule,
        )
        StopAtDivergence(model, arguments, Packed(text.pad_token_id), rows, callbacks=[SaveAndReport()]).train()
