"""`rpg export --like`: files that libraries wrote, with a sample in them, open in these libraries.

torch 2.11.0, Lightning 2.6.6, timm 1.0.31, onedl-mmengine 0.10.12, transformers 5.23.0, peft 0.21.2,
diffusers 0.42.1.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from conftest import GIVEN, write_given, write_tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from rpg.cli import main
from rpg.tasks.adapters import adapter_state, config_tree, write_adapter
from rpg.tasks.custom.reading import Inert


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def changed(model: nn.Module) -> Any:
    """Return a copy of a model with other numbers, in evaluation mode."""
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.normal_()
    return other


def write_sample(model: nn.Module, path: str = "sample.safetensors") -> dict[str, Tensor]:
    """Write a model's state dict as `rpg generate` does, under all names of tied tensors; return it."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, path)
    return tensors


def export(like: object, out: str, weights: str = "sample.safetensors", *options: str) -> None:
    main(["export", "--like", str(like), "--weights", weights, "--out", out, *options])


def same(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def same_outputs(model: nn.Module, other: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(model.eval()(inputs), other.eval()(inputs))


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer with a state, after one step of training."""
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    return optimizer


def test_lightning_opens_its_checkpoint(capsys) -> None:
    """Trainer writes the module's loss, its hyperparameters, the callbacks and the optimizer beside the network."""

    class Module(lightning.LightningModule):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = network()
            self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = self.loss(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        validation_step = training_step

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), self.hparams.rate)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(3, (16,)))
    loader = torch.utils.data.DataLoader(data, 8)
    kept = lightning.callbacks.ModelCheckpoint("runs", monitor="loss")
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    lightning.Trainer(max_epochs=1, callbacks=[kept], **options).fit(Module(0.01), loader)
    sample = changed(network())
    expected = write_sample(sample)
    capsys.readouterr()
    export(kept.best_model_path, "mine.ckpt")
    printed = capsys.readouterr().out
    assert printed == (
        f"mine.ckpt: 9 tensors as the 'state_dict' of {kept.best_model_path}, prefix 'model.'; kept: loss.weight;"
        " left out: optimizer_states, lr_schedulers\n"
    )
    # The hyperparameters come from the file.
    module = Module.load_from_checkpoint("mine.ckpt", map_location="cpu")
    assert module.hparams.rate == 0.01
    same(module.model, expected)
    assert torch.equal(module.loss.weight, torch.tensor([1.0, 2.0, 3.0]))
    same_outputs(module.model, sample, torch.randn(5, 4))
    other = Module(0.01)
    lightning.Trainer(**options).validate(other, loader, ckpt_path="mine.ckpt", verbose=False)
    same(other.model, expected)
    with pytest.raises(KeyError, match="checkpoint contains only the model"):
        lightning.Trainer(max_epochs=2, **options).fit(other, loader, ckpt_path="mine.ckpt")


def test_what_is_no_network_s_is_left_out(capsys) -> None:
    """Lightning's keys, with records and states of the training at several depths, and another network's average."""
    model = network()
    optimizer = stepped(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    named = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    named |= {f"ema.module.{name}": tensor for name, tensor in changed(model).state_dict().items()}
    tree = {
        "pytorch-lightning_version": "2.6.6",
        "epoch": 3,
        "state_dict": named | {"loss.weight": torch.ones(3)},
        "loops": {"fit": {"optim_progress": {"ready": 1}}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "callbacks": {"Best": {"score": torch.tensor(0.5), "path": Path("x")}, "Log": {"paths": [Path("x")]}},
        "hyper_parameters": {"optimizer": {"name": "adamw", "rate": 0.1}, "options": argparse.Namespace(rate=0.1)},
        "inner": {"warm_up": scheduler.state_dict(), "optim": {"moments": {"0.bias": torch.ones(8)}}},
        "ema": {"decay": 0.9, "shadow_params": list(changed(model).parameters())},
        "precision": torch.amp.GradScaler("cpu").state_dict(),
    }
    torch.save(tree, "a.ckpt")
    expected = write_sample(changed(model))
    export("a.ckpt", "mine.ckpt")
    assert capsys.readouterr().out == (
        "mine.ckpt: 9 tensors as the 'state_dict' of a.ckpt, prefix 'model.'; kept: loss.weight; left out:"
        " ema.module. (another network), optimizer_states, lr_schedulers, callbacks.Best.path (a record),"
        " callbacks.Log (a record), hyper_parameters.options (a record), inner, ema (another network) and 1 more\n"
    )
    # torch.load refuses other objects than tensors and plain content.
    found = torch.load("mine.ckpt", weights_only=True)
    state = found.pop("state_dict")
    assert list(state) == [*(f"model.{name}" for name in expected), "loss.weight"]
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in expected.items())
    assert found == {
        "pytorch-lightning_version": "2.6.6",
        "epoch": 3,
        "loops": tree["loops"],
        "callbacks": {"Best": {"score": torch.tensor(0.5)}},
        "hyper_parameters": {"optimizer": {"name": "adamw", "rate": 0.1}},
    }
    assert Inert.__name__.encode() not in Path("mine.ckpt").read_bytes()


@pytest.mark.parametrize("averaged", [True, False])
def test_timm_opens_its_checkpoint(capsys, averaged: bool) -> None:
    """timm's CheckpointSaver writes the optimizer, the options of the command and, if there is one, an average."""
    import timm
    from timm.models import load_checkpoint
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters())
    average = ModelEmaV3(model) if averaged else None
    Path("run").mkdir()
    args = argparse.Namespace(model="test_resnet", lr=0.1)
    CheckpointSaver(model, optimizer, args, average, checkpoint_dir="run", recovery_dir="run").save_checkpoint(1, 50.0)
    sample = changed(model)
    expected = write_sample(sample)
    export("run/checkpoint-1.pth.tar", "mine.pth.tar")
    left = ["optimizer", "args (a record)", *["state_dict_ema (another network)"] * averaged]
    assert capsys.readouterr().out == (
        f"mine.pth.tar: {len(expected)} tensors as the 'state_dict' of run/checkpoint-1.pth.tar;"
        f" left out: {', '.join(left)}\n"
    )
    for use_ema in (True, False):
        opened = timm.create_model("test_resnet", num_classes=3)
        # Without an average, timm takes the weights.
        load_checkpoint(opened, "mine.pth.tar", use_ema=use_ema)
        same(opened, expected)
        same_outputs(opened, sample, torch.randn(2, 3, 32, 32))
    found = torch.load("mine.pth.tar", weights_only=True)
    assert found.keys() == {"epoch", "arch", "state_dict", "version", "metric", "saver"}
    assert (found["epoch"], found["arch"], found["metric"]) == (1, "test_resnet", 50.0)
    assert found["state_dict"]._metadata == model.state_dict()._metadata


def test_mmengine_opens_its_checkpoint(capsys) -> None:
    """Runner writes the state of its optimizer and schedulers, and a log whose numbers are NumPy's."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner, load_checkpoint

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor, mode: str = "tensor") -> Any:
            made = self.inner(x)
            return {"loss": made.square().mean()} if mode == "loss" else made

    runner = Runner(
        Model(),
        "work",
        train_dataloader={
            "dataset": [{"x": torch.randn(4)} for _ in range(8)],
            "batch_size": 4,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler=[{"type": "StepLR", "step_size": 1}],
        experiment_name="like",
        default_hooks={"logger": None},
    )
    runner.train()
    sample = changed(Model())
    expected = write_sample(sample)
    capsys.readouterr()
    export("work/epoch_1.pth", "mine.pth")
    assert capsys.readouterr().out == (
        "mine.pth: 9 tensors as the 'state_dict' of work/epoch_1.pth; left out: message_hub.log_scalars (a record),"
        " message_hub.runtime_info.eta (a record), optimizer, param_schedulers\n"
    )
    opened = Model()
    loaded = load_checkpoint(opened, "mine.pth", strict=True)
    same(opened, expected)
    same_outputs(opened, sample, torch.randn(5, 4))
    assert loaded["meta"]["epoch"] == 1
    # A training can't be resumed.
    with pytest.raises(AssertionError, match="must contain key: `log_scalars`"):
        runner.resume("mine.pth")


def language_model(tied: bool = True) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)).eval()


def same_answers(model: Any, other: Any) -> None:
    with torch.no_grad():
        tokens = torch.arange(8).unsqueeze(0)
        assert torch.equal(model.eval()(input_ids=tokens).logits, other.eval()(input_ids=tokens).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["5GB", "1KB"])
def test_transformers_opens_its_folder(capsys, tied: bool, dtype: torch.dtype, shard: str) -> None:
    """`save_pretrained` names a tied tensor once, and the sample twice. Half precision stays."""
    model = language_model(tied).to(dtype)
    model.save_pretrained("run", max_shard_size=shard)
    sample = changed(language_model(tied))
    expected = write_sample(sample)
    export("run", "mine")
    written = {path.name for path in Path("run").iterdir()}
    assert {path.name for path in Path("mine").iterdir()} == written
    weights = [name for name in written if name.endswith(".safetensors")]
    count = len(expected) - tied
    files = f", in {len(weights)} files" if shard == "1KB" else ""
    assert capsys.readouterr().out == f"mine: {count} tensors in the form of run{files}\n"
    for name in written - set(weights):
        assert Path("mine", name).read_bytes() == Path("run", name).read_bytes()
    for name in weights:
        with safe_open(Path("mine", name), "pt") as file, safe_open(Path("run", name), "pt") as before:
            assert file.metadata() == before.metadata() == {"format": "pt"}
            assert list(file.keys()) == list(before.keys())
    opened, told = type(model).from_pretrained("mine", output_loading_info=True)
    assert not any(told.values())
    assert opened.dtype == dtype
    same(opened, {name: tensor.to(dtype) for name, tensor in expected.items()})
    # transformers keeps the frequencies of the positions, which no file holds, in float32.
    rotary = copy.deepcopy(sample.model.rotary_emb)
    sample.to(dtype).model.rotary_emb = rotary
    same_answers(opened, sample)


@pytest.mark.parametrize("shard", [10**9, 700])
def test_pickles_of_transformers_open(shard: int) -> None:
    """Earlier versions of transformers write pytorch_model.bin, also in several files."""
    from huggingface_hub import save_torch_state_dict

    model = language_model(False)
    model.config.save_pretrained("run")
    pattern = "pytorch_model{suffix}.bin"
    save_torch_state_dict(
        model.state_dict(), "run", filename_pattern=pattern, max_shard_size=shard, safe_serialization=False
    )
    sample = changed(model)
    expected = write_sample(sample)
    export("run", "mine")
    assert {path.name for path in Path("mine").iterdir()} == {path.name for path in Path("run").iterdir()}
    opened = type(model).from_pretrained("mine", use_safetensors=False)
    same(opened, expected)
    same_answers(opened, sample)


def test_transformers_opens_a_trainer_s_folder(capsys) -> None:
    from transformers import Trainer, TrainingArguments

    model = language_model()
    chains = torch.randint(11, (8, 6))
    arguments = TrainingArguments("run", max_steps=1, report_to=[], disable_tqdm=True, use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": x, "labels": x} for x in chains])
    trainer.train()
    Path("run/checkpoint-1/README.md").write_text("A card of another network.\n")
    sample = changed(model)
    expected = write_sample(sample)
    capsys.readouterr()
    export("run/checkpoint-1", "mine")
    assert capsys.readouterr().out == (
        f"mine: {len(expected) - 1} tensors in the form of run/checkpoint-1; left out: README.md, optimizer.pt,"
        " rng_state.pth, scheduler.pt, training_args.bin\n"
    )
    assert {path.name for path in Path("mine").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "trainer_state.json"
    }  # fmt: skip
    opened = type(model).from_pretrained("mine")
    same(opened, expected)
    same_answers(opened, sample)
    # Written again: all files are those of the export.
    export("run/checkpoint-1", "mine")


@pytest.fixture
def process_group() -> Any:
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("wrap", "form"),
    [
        (nn.parallel.DistributedDataParallel, ", prefix 'module.'"),
        (nn.DataParallel, ", prefix 'module.'"),
        (torch.compile, ", with '_orig_mod' in the names"),
        (lambda model: nn.Sequential(*map(torch.compile, model)), ", with '_orig_mod' in the names"),
        (torch.optim.swa_utils.AveragedModel, ", prefix 'module.'; kept: n_averaged"),
        (
            lambda model: nn.DataParallel(torch.compile(model)),
            ", prefix 'module.', with '_orig_mod' in the names",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_wrappers_load_their_checkpoints(process_group, capsys, wrap: Callable, form: str, suffix: str) -> None:
    before = wrap(network()).state_dict()
    (torch.save if suffix == ".pt" else save_file)(before, f"a{suffix}")
    sample = changed(network())
    expected = write_sample(sample)
    export(f"a{suffix}", f"mine{suffix}")
    assert capsys.readouterr().out == f"mine{suffix}: 9 tensors in the form of a{suffix}{form}\n"
    found = torch.load("mine.pt", weights_only=True) if suffix == ".pt" else load_file("mine.safetensors")
    if suffix == ".pt":
        assert list(found) == list(before)
        assert found._metadata == before._metadata
    model = network()
    wrapper = wrap(model)
    wrapper.load_state_dict(found)
    # AveragedModel has a copy of the network. Compiled code rounds in other ways, so the network is compared.
    inner = wrapper.module if "n_averaged" in before else model
    same(inner, expected)
    same_outputs(inner, sample, torch.randn(5, 4))
    assert "n_averaged" not in before or torch.equal(found["n_averaged"], before["n_averaged"])


@pytest.mark.parametrize("safetensors", [True, False])
def test_peft_opens_its_folder(capsys, safetensors: bool) -> None:
    """peft writes the trained head among the adapter's weights, and a card of the adapter."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = language_model(False)

    def adapt() -> Any:
        modules = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
        return get_peft_model(copy.deepcopy(base), LoraConfig(r=2, task_type="CAUSAL_LM", **modules))

    model = adapt()
    model.save_pretrained("run", safe_serialization=safetensors)
    name = "adapter_model.safetensors" if safetensors else "adapter_model.bin"
    if not safetensors and not Path("run", name).exists():
        # peft 0.21.2 writes safetensors only; earlier versions wrote this file.
        torch.save(load_file("run/adapter_model.safetensors"), f"run/{name}")
        Path("run/adapter_model.safetensors").unlink()
    sample = changed(adapt())
    expected = adapter_state(sample)
    write_adapter(Path("sample"), config_tree(sample.peft_config["default"]), expected)
    export("run", "mine", "sample")
    assert capsys.readouterr().out == f"mine: {len(expected)} tensors in the form of run; left out: README.md\n"
    assert {path.name for path in Path("mine").iterdir()} == {"adapter_config.json", name}
    assert Path("mine/adapter_config.json").read_bytes() == Path("run/adapter_config.json").read_bytes()
    opened = PeftModel.from_pretrained(copy.deepcopy(base), "mine")
    found = adapter_state(opened)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # All but the adapter is the base's.
    fresh = adapt()
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(fresh, expected)
    same_answers(opened, fresh)


def test_adapters_of_other_settings_are_refused(capsys) -> None:
    """The rank enters the shapes, and alpha the function alone."""
    from peft import LoraConfig, get_peft_model

    for folder, alpha in (("run", 8), ("sample", 16)):
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["0"])
        get_peft_model(network(), config).save_pretrained(folder)
    with pytest.raises(SystemExit):
        export("run", "mine", "sample")
    assert capsys.readouterr().err == (
        "rpg: error: run/adapter_config.json: lora_alpha is 8, but sample/adapter_config.json has 16; make them equal\n"
    )
    assert not Path("mine").exists()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight


def test_tied_tensors_stay_tied() -> None:
    """A pickle of `state_dict()` holds a tied tensor once under both names; the metadata of `save_model` names one."""
    torch.save(Tied().state_dict(), "a.pt")
    save_model(Tied(), "a.safetensors", {"format": "pt", "b": "ü", "a": "1"})
    expected = write_sample(changed(Tied()))
    export("a.pt", "mine.pt")
    found = torch.load("mine.pt", weights_only=True)
    assert found["embed.weight"].data_ptr() == found["head.weight"].data_ptr()
    assert Path("mine.pt").stat().st_size < 1.2 * Path("a.pt").stat().st_size
    model = Tied()
    model.load_state_dict(found)
    same(model, expected)
    for name in ("mine.safetensors", "again.safetensors"):
        export("a.safetensors", name)
    with safe_open("mine.safetensors", "pt") as file, safe_open("a.safetensors", "pt") as before:
        assert file.metadata() == before.metadata()
        assert len(file.metadata()) == 4
        assert list(file.keys()) == list(before.keys())
    assert Path("mine.safetensors").read_bytes() == Path("again.safetensors").read_bytes()
    from safetensors.torch import load_model

    load_model(model := Tied(), "mine.safetensors")
    same(model, expected)
    # The other way round: the sample has one name, the file both.
    one = {"embed.weight": expected["embed.weight"]}
    save_file(one, "one.safetensors")
    save_file({name: tensor.clone() for name, tensor in Tied().state_dict().items()}, "both.safetensors")
    for name in ("a.pt", "both.safetensors"):
        export(name, f"filled{Path(name).suffix}", "one.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in torch.load("filled.pt").items())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file("filled.safetensors").items())


def test_a_file_may_lack_batchnorm_s_counter() -> None:
    given = {name: x for name, x in network().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(given, "a.pt")
    expected = write_sample(changed(network()))
    export("a.pt", "mine.pt")
    found = torch.load("mine.pt", weights_only=True)
    assert list(found) == list(given)
    model = network()
    model.load_state_dict(found)
    same(model, expected)


def test_half_precision_stays() -> None:
    model = network().half()
    torch.save({"model": model.state_dict()}, "a.pt")
    expected = write_sample(changed(network()))
    export("a.pt", "mine.pt")
    model.load_state_dict(torch.load("mine.pt", weights_only=True)["model"])
    same(model, {name: tensor.to(model.state_dict()[name].dtype) for name, tensor in expected.items()})
    assert model[0].weight.dtype == torch.float16


def test_the_experiment_chooses_a_network() -> None:
    write_given(Path())
    model, other = network(), network()
    torch.save({"student": model.state_dict(), "teacher": other.state_dict()}, "a.pt")
    write_tree(Path(), given={**GIVEN, "zoo": {**GIVEN["zoo"], "weights": "teacher"}})
    expected = write_sample(changed(model))
    export("a.pt", "mine.pt", "sample.safetensors", "--experiment", "given")
    found = torch.load("mine.pt", weights_only=True)
    assert list(found) == ["teacher"]
    assert all(torch.equal(found["teacher"][name], tensor) for name, tensor in expected.items())


ZOO = "give --like a checkpoint with the sample's names and shapes"
SAMPLE = "sample.safetensors: does not fit"


@pytest.mark.parametrize(
    ("like", "options", "line"),
    [
        ("none.pt", [], "--like none.pt: no such file or folder"),
        ("a.txt", [], "--like a.txt: unknown kind of checkpoint; use .safetensors, .pth, .pt, .bin, .ckpt, .pth.tar or"
         " a folder"),
        ("broken.pt", ["--out", "x.pt"], "broken.pt: refused, because it is truncated or holds more than weights; save"
         " a state dict"),
        ("other.pt", [], f"{SAMPLE} other.pt: tensor '3.weight' has shape [3, 8], not [5, 8]; {ZOO}"),
        ("longer.pt", [], f"{SAMPLE} longer.pt: tensor '4.bias' is missing; {ZOO}"),
        ("shorter.pt", [], f"{SAMPLE} shorter.pt: tensor '1.bias' is not in the checkpoint; {ZOO}"),
        ("whole.pt", [], f"{SAMPLE} whole.pt: tensor '0.bias' has numbers that its int64 can't hold; give --like a"
         " checkpoint in float32"),
        ("half.pt", [], f"{SAMPLE} half.pt: tensor '0.bias' has numbers that its float16 can't hold; give --like a"
         " checkpoint in float32"),
        ("two.pt", [], "two.pt: holds several state dicts; name one in zoo.weights: 'student', 'teacher'; then add"
         " --experiment NAME"),
        ("a.pt", ["--out", "x.ckpt"], "--out x.ckpt: must be a file .pt, as a.pt is"),
        ("a.pt", ["--out", "folder"], "--out folder: must be a file .pt, as a.pt is"),
        ("a.pth.tar", ["--out", "x.pth"], "--out x.pth: must be a file .pth.tar, as a.pth.tar is"),
        ("a.pt", ["--out", "a.pt"], "--out a.pt: is the checkpoint of --like; name a new file"),
        ("a.pt", ["--out", "link.pt"], "--out link.pt: is the checkpoint of --like; name a new file"),
        ("a.safetensors", ["--out", "sample.safetensors"], "--out sample.safetensors: is the network of --weights;"
         " name a new file"),
        ("folder", ["--out", "x.pt"], "--out x.pt: must be a folder, as folder is"),
        ("folder", ["--out", "folder"], "--out folder: is the checkpoint of --like; name a new folder"),
        ("folder", ["--out", "folder/x"], "--out folder/x: is the checkpoint of --like; name a new folder"),
        ("folder", ["--out", "full"], "--out full: has model.bin, which is not among the files to write; name a new"
         " folder"),
        ("full", ["--out", "x"], "--like full: holds several checkpoints: model.bin, other.bin; name one of them"),
        ("above", ["--out", "x"], "--like above: holds no checkpoint; name a folder within it, such as"
         " above/checkpoint-1"),
        ("above/checkpoint-1", ["--out", "x"], "--like above/checkpoint-1: holds no checkpoint; name a file"),
        ("x.safetensors.index.json", [], "--like x.safetensors.index.json: lists further files; name its folder ."),
        ("a.pt", ["--format", "pth"], "--like a.pt: the checkpoint gives the form; remove --format and --generator"),
        ("a.pt", ["--generator", "g"], "--like a.pt: the checkpoint gives the form; remove --format and --generator"),
    ],
)  # fmt: skip
def test_refusals(capsys, like: str, options: list[str], line: str) -> None:
    state = changed(network()).state_dict()
    state["0.bias"] += 1e6
    save_file(state, "sample.safetensors")
    for name in ("a.pt", "a.pth.tar"):
        torch.save(state, name)
    save_file(state, "a.safetensors")
    Path("link.pt").symlink_to("a.pt")
    for name in ("a.txt", "broken.pt", "x.safetensors.index.json"):
        Path(name).write_text("{}")
    torch.save({**state, "3.weight": torch.zeros(5, 8)}, "other.pt")
    torch.save({**state, "4.bias": torch.zeros(5)}, "longer.pt")
    torch.save({name: tensor for name, tensor in state.items() if name != "1.bias"}, "shorter.pt")
    torch.save({**state, "0.bias": torch.zeros(8, dtype=torch.int64)}, "whole.pt")
    torch.save({name: x.half() if x.is_floating_point() else x for name, x in state.items()}, "half.pt")
    torch.save({"student": state, "teacher": state}, "two.pt")
    for folder in ("folder", "full", "above/checkpoint-1"):
        Path(folder).mkdir(parents=True)
    save_file(state, "folder/model.safetensors")
    for name in ("model.bin", "other.bin"):
        torch.save(state, f"full/{name}")
    out = [] if "--out" in options else ["--out", f"x{Path(like).suffix}"]
    with pytest.raises(SystemExit) as stop:
        main(["export", "--like", like, "--weights", "sample.safetensors", *options, *out])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out, printed.err) == (2, "", f"rpg: error: {line}\n")
    assert not list(Path().glob("x.[cp]*"))
    assert not Path("x").exists()


def test_like_needs_weights(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--like", "a.pt", "--out", "x.pt"])
    assert capsys.readouterr().err == "rpg: error: --like a.pt: add --weights FILE\n"


def test_a_folder_s_index_is_json(capsys) -> None:
    """An index that names a file outside its folder is refused unread, as in a zoo."""
    Path("run").mkdir()
    write_sample(network())
    Path("run/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(SystemExit):
        export("run", "mine")
    assert "has no weight_map from tensors to files of its folder" in capsys.readouterr().err


def test_diffusers_opens_its_lora() -> None:
    """The only file of a LoRA keeps its settings in the metadata: without alpha, the same weights act half as much."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Lora
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

    def base() -> Any:
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8, in_channels=2, out_channels=2, down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",), block_out_channels=(8,), layers_per_block=1, cross_attention_dim=8,
            attention_head_dim=4, norm_num_groups=4,
        )  # fmt: skip

    def answer(unet: Any) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        inputs, words = torch.randn(1, 2, 8, 8, generator=draw), torch.randn(1, 3, 8, generator=draw)
        with torch.no_grad():
            return unet.eval()(inputs, 5, words).sample

    def opened(folder: str) -> Tensor:
        unet = base()
        found, alphas, metadata = Lora.lora_state_dict(folder, return_lora_metadata=True)
        Lora.load_lora_into_unet(found, alphas, unet, metadata=metadata)
        return answer(unet)

    trained = base()
    trained.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"]))
    settings = trained.peft_config["default"].to_dict()
    Lora.save_lora_weights(
        "lora", unet_lora_layers=get_peft_model_state_dict(trained), unet_lora_adapter_metadata=settings
    )
    draw = torch.Generator().manual_seed(2)
    sample = {
        name: torch.randn(tensor.shape, generator=draw)
        for name, tensor in load_file("lora/pytorch_lora_weights.safetensors").items()
    }
    Path("plain").mkdir()
    save_file(sample, "plain/pytorch_lora_weights.safetensors")
    like = ["--like", "lora/pytorch_lora_weights.safetensors", "--out", "new/pytorch_lora_weights.safetensors"]
    main(["export", *like, "--weights", "plain/pytorch_lora_weights.safetensors"])
    set_peft_model_state_dict(trained, {name.removeprefix("unet."): tensor for name, tensor in sample.items()})
    expected = answer(trained)
    torch.testing.assert_close(opened("new"), expected)
    assert (opened("plain") - expected).abs().max() > 0.01
