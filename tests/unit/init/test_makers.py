"""The tool that wrote a checkpoint; each file is written by the tool itself."""

import argparse
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import network, save, write_ray
from safetensors.torch import save_file
from torch import nn

from rpg.init.makers import maker


def version(package: str) -> str:
    return importlib.metadata.version(package)


def lightning() -> str:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(Module())
    trainer.save_checkpoint("epoch=1.ckpt")
    return "epoch=1.ckpt"


def timm() -> str:
    from timm.utils import CheckpointSaver

    own = network()
    optimizer = torch.optim.SGD(own.parameters(), 0.1)
    saver = CheckpointSaver(own, optimizer, argparse.Namespace(model="mlp"), checkpoint_dir=".", recovery_dir=".")
    saver.save_checkpoint(1, 0.5)
    return "checkpoint-1.pth.tar"


def mmengine() -> str:
    from mmengine.runner import save_checkpoint

    save_checkpoint({"meta": {"epoch": 1, "mmengine_version": "0.10.7"}, "state_dict": network().state_dict()}, "e.pth")
    return "e.pth"


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=32, **sizes))


def transformers() -> str:
    llama().save_pretrained("hf")
    return "hf"


def transformers_file() -> str:
    llama().save_pretrained("hf")
    return "hf/model.safetensors"


def transformers_index() -> str:
    llama().save_pretrained("hf", max_shard_size="2KB")
    return "hf/model.safetensors.index.json"


def peft() -> str:
    from peft import LoraConfig, get_peft_model

    get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("lora")
    return "lora"


def trainer() -> str:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir="out", max_steps=1, save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=100
    )
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 8
    Trainer(llama(), arguments, train_dataset=rows).train()
    return "out/checkpoint-1"


def accelerate() -> str:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.prepare(network())
    accelerator.save_state("state")
    return "state"


def ray() -> str:
    write_ray()
    return str(next(Path("zoo").rglob("model.pt")))


def references() -> str:
    whole = {"model": network().state_dict(), "optimizer": {}, "lr_scheduler": {}, "epoch": 1, "args": None}
    save("model_1.pth", whole)
    return "model_1.pth"


def kohya() -> str:
    save_file(
        {"lora_unet_x.lora_up.weight": torch.ones(2)}, "k.safetensors", {"ss_sd_scripts_commit_hash": "abcdef0123"}
    )
    return "k.safetensors"


def diffusers() -> str:
    save_file({"unet.x.lora_A.weight": torch.ones(2)}, "d.safetensors")
    return "d.safetensors"


def safetensors() -> str:
    save_file(network().state_dict(), "s.safetensors", {"format": "pt"})
    return "s.safetensors"


def training_state() -> str:
    save("t.pth", {"epoch": 1, "net": network().state_dict()})
    return "t.pth"


def state_dict() -> str:
    save("p.pth", network().state_dict())
    return "p.pth"


def tensor() -> str:
    save("x.pt", torch.ones(2))
    return "x.pt"


@pytest.mark.parametrize(
    ("write", "tool"),
    [
        (lightning, f"Lightning {version('pytorch-lightning')}"),
        (timm, "timm"),
        (mmengine, "mmengine 0.10.7"),
        (transformers, f"transformers {version('transformers')}"),
        (transformers_file, f"transformers {version('transformers')}"),
        (transformers_index, f"transformers {version('transformers')}"),
        (peft, f"peft {version('peft')}"),
        (trainer, f"transformers Trainer and transformers {version('transformers')}"),
        (accelerate, "accelerate"),
        (ray, "Ray Tune"),
        (references, "torchvision's references"),
        (kohya, "kohya's scripts abcdef0"),
        (diffusers, "diffusers, a LoRA"),
        (safetensors, "a state dict of safetensors (pt)"),
        (training_state, "torch.save, a training state (epoch, net)"),
        (state_dict, "torch.save, a state dict"),
        (tensor, "torch.save"),
    ],
)
def test_the_tool_leaves_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[], str], tool: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert maker(Path(write())) == tool


def test_a_folder_without_traces(tmp_path: Path) -> None:
    assert maker(tmp_path) == "folders with a state dict each"
    (tmp_path / "config.json").write_text("{")
    assert maker(tmp_path) == "transformers"
    (tmp_path / "config.json").write_text(json.dumps({"transformers_version": "4.1"}))
    assert maker(tmp_path) == "transformers 4.1"
