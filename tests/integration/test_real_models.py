"""`commonsense-prompts`, made for a model of Hugging Face: all of it on a random Llama of reduced width."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkouts import make_checkout, snakemake
from conftest import ROOT, SETTINGS, run_layers

from rpg.config.loading import load_params
from rpg.pipeline.plan import GPUS, plan
from rpg.tasks.commonsense.facts import questions
from rpg.tasks.commonsense.questions import prompt

pytestmark = pytest.mark.integration
NAME = "commonsense-prompts"


def write_model(folder: Path, texts: list[str]) -> None:
    """A Llama with random weights, and a tokenizer of bytes, in the files of Hugging Face."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    words.train_from_iterator(texts, trainer)
    text = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    text.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=1024,
        )
    ).save_pretrained(folder)


def reduced(folder: Path) -> dict[str, Any]:
    """The shipped experiment with one step of each training."""
    tree = load_params(ROOT / "params.yaml").experiment(NAME).model_dump(mode="json")
    tree["task"] |= {"model": str(folder / "llama"), "revision": None, "validation": 2, "new_tokens": 3}
    tree["zoo"] |= {"steps": 0, "saves": 1, "save_every": 1, "batch": 2, "warmup": 0}
    tree["tokens"]["width"] = 64
    tree["model"]["backbone"] |= {"width": 32, "state_width": 8, "head_width": 16}
    tree["model"]["denoiser"]["hidden"] = 32
    tree["model"]["conditions"][1] |= {"hidden_states": [1, 2], "features": 64, "hidden": 16}
    for block in ("tune", "hypernetwork"):
        tree[block] |= {"steps": 1, "networks": 2, "images": 2, "precision": "float32"}
    tree["prompts"] |= {"questions": [1, 3], "examples": [1], "prompts": 1}
    tree["sample"] |= {"questions": 3, "seen": 2}
    return tree


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkout(tmp_path_factory.mktemp("real"))
    tree = reduced(folder)
    texts = []
    for task in (*tree["task"]["seen"], *tree["task"]["held_out"]):
        data = folder / "data/commonsense/dataset" / task
        data.mkdir(parents=True)
        for split, count in (("train", 6), ("test", 4)):
            rows = questions(split, task, count)
            texts += [prompt(row["instruction"]) + row["output"] for row in rows]
            (data / f"{split}.json").write_text(json.dumps(rows))
    write_model(folder / "llama", texts)
    params = {**SETTINGS, "data_root": str(folder / "data"), "run": [NAME], "experiments": {NAME: tree}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def test_a_dry_run_is_complete(here: Path) -> None:
    text = snakemake(here, "--dry-run", f"results/{NAME}/prompts.md")
    counts = Counter(re.findall(r"^(?:local)?rule (\w+):", text, re.M))
    stages = ("collect", "tokens", "train", "tune", "hypernetwork", "prompts")
    assert counts == {"zoo": 8, **dict.fromkeys(stages, 1)}


def test_every_stage_runs_and_peft_opens_the_adapter(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged and the unmerged adapter answer alike."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages = ("zoo", "collect", "tokens", "train", "tune", "hypernetwork", "sample", "score", "prompts")
    run_layers(here, *stages, experiment=NAME)
    table = (here / f"results/{NAME}/prompts.md").read_text()
    for row in (
        "RPG",
        "hypernetwork, task loss only",
        "one adapter, trained on all seen tasks",
        "language model alone",
    ):
        assert f"| {row} |" in table
    monkeypatch.chdir(here)
    folder = f"results/{NAME}/samples/0000"
    text = AutoTokenizer.from_pretrained("llama")
    inputs = text(prompt("Is it so? Answer format: true/false"), return_tensors="pt")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("llama"), folder).eval()
    with torch.no_grad():
        alone = AutoModelForCausalLM.from_pretrained("llama").eval()(**inputs).logits
        unmerged = model(**inputs).logits
        merged = model.merge_and_unload()(**inputs).logits
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-4)
    assert (unmerged - alone).abs().max() > 1e-6


def test_the_plan_has_the_full_size() -> None:
    """Two pairs of rank 4 in each of 32 blocks of width 4096."""
    row = plan(load_params(ROOT / "params.yaml"), NAME, GPUS["h100"])
    assert row.checkpoint == 32 * 2 * 2 * 4 * 4096
    assert row.length * row.width >= row.checkpoint
    assert row.memory < 80e9
