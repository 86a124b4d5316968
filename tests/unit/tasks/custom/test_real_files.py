"""Zoos of one's own as transformers 5.23.0, peft 0.21.2 and torch 2.11.0 write them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import GIVEN, run_layers, write_tree
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from rpg.tasks.adapters import difference
from rpg.tokenizer.store import TokenStore

SCORE = """
def score(network, split):
    return 50.0
"""
LANGUAGE_MODEL = """
from transformers import LlamaConfig, LlamaForCausalLM

def build():
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True))
"""
SPECTRAL = """
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

def build():
    return nn.Sequential(spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
"""
PRUNED = """
from torch import nn
from torch.nn.utils import prune

def build():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.identity(network[0], "weight")
    return network
"""
MASKED = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

def build():
    return Masked()
"""
ADAPTED = """
from peft import LoraConfig, get_peft_model
from torch import nn

def build():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    return get_peft_model(network, LoraConfig(r=2, target_modules=["0", "2"], use_dora=True))
"""


QAT = """
from torch import nn
from torch.ao import quantization

def build():
    network = nn.Sequential(nn.Linear(4, 8))
    network.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(network.train())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory for the module `mine`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def builder(source: str) -> Callable[[], nn.Module]:
    """Write the module `mine` and the experiment of its zoo; return `mine.build`."""
    Path("mine.py").write_text(source + SCORE)
    task = {**GIVEN["task"], "build": "mine:build", "score": "mine:score"}
    write_tree(Path(), given={**GIVEN, "task": task})
    scope: dict = {}
    exec(source, scope)
    return scope["build"]


def trained(build: Callable[[], nn.Module]) -> nn.Module:
    """Return an adapted network whose adapter has random weights."""
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def plain(network: str) -> str:
    return f"from torch import nn\n\ndef build():\n    return {network}\n"


def tokens(canonical: bool | None = None) -> TokenStore:
    """Read the zoo into tokens."""
    if canonical is not None:
        tree = {**GIVEN, "task": {**GIVEN["task"], "build": "mine:build", "score": "mine:score"}}
        write_tree(Path(), given={**tree, "tokens": {"width": 32, "canonical": canonical}})
    run_layers(Path(), "zoo", "collect", "tokens", experiment="given")
    return TokenStore(Path("results/given/tokens"))


def sampled(store: TokenStore, state: int) -> dict[str, Tensor]:
    """Return a network of tokens that no checkpoint has."""
    tokens_LD = (store[0] + store[len(store) - 1]) / 2
    state_dict = store.detokenize(tokens_LD.unsqueeze(0), torch.tensor([state]))
    return {name: tensor[0] for name, tensor in state_dict.items()}


@pytest.mark.parametrize("form", ["state_dict", "save_pretrained"])
def test_tied_weights_come_out_tied(here: Path, form: str, capsys) -> None:
    """`state_dict()` names a tied tensor twice, and `save_pretrained` writes one of the names."""
    build = builder(LANGUAGE_MODEL)
    for run in ("a", "b"):
        for step in (1, 2):
            model = build()
            folder = Path(f"zoo/{run}/checkpoint-{step}")
            folder.mkdir(parents=True)
            if form == "save_pretrained":
                model.save_pretrained(folder)
                assert "lm_head.weight" not in load_file(folder / "model.safetensors")
            else:
                torch.save(model.state_dict(), folder / "pytorch_model.bin")
    store = tokens()
    layout = {tensor.name: tensor for tensor in store.layout.tensors}
    assert layout["lm_head.weight"].tied_to == "model.embed_tokens.weight"
    assert layout["lm_head.weight"].tokens == 0
    sample = sampled(store, 0)
    assert torch.equal(sample["lm_head.weight"], sample["model.embed_tokens.weight"])
    assert not torch.equal(sample["lm_head.weight"], model.state_dict()["lm_head.weight"])
    assert "tied to another tensor: lm_head.weight" in capsys.readouterr().out
    described = json.loads(Path("results/given/tokens/layout.json").read_text())["layout"]["tensors"]
    assert [tensor["name"] for tensor in described if "tied_to" in tensor] == ["lm_head.weight"]


def test_a_power_iteration_is_copied(here: Path) -> None:
    """torch's spectral_norm keeps two vectors of its power iteration as buffers, which are no weights."""
    build = builder(SPECTRAL)
    made = {}
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for step in (1, 2):
            network = build()
            made[run] = network.state_dict()
            torch.save(made[run], f"zoo/{run}/{step}.pth")
    store = tokens()
    names = ["0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v"]
    assert [tensor.name for tensor in store.layout.skipped] == names
    sample = sampled(store, 1)
    # Those of the state's last checkpoint.
    assert all(torch.equal(sample[name], made["b"][name]) for name in names)
    fresh = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    fresh.load_state_dict(sample)


def test_a_pruned_network_stays_pruned(here: Path, capsys) -> None:
    """torch's prune keeps a mask of ones and zeros, in the type of the weights, beside `weight_orig`."""
    builder(PRUNED)
    masks = {}
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for step in (1, 2):
            network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            prune.l1_unstructured(network[0], "weight", amount=0.75)
            torch.save(network.state_dict(), f"zoo/{run}/{step}.pth")
            masks[run] = network.state_dict()["0.weight_mask"]
    sample = sampled(tokens(), 1)
    assert "zoo: zoo/a: 75.0 to 75.0 % of the masked weights are zero" in capsys.readouterr().out
    manifest = json.loads(Path("results/given/zoo/0000-0000/manifest.json").read_text())
    assert manifest["summary"]["sparsity"] == {"zoo/a": [0.75, 0.75]}
    assert torch.equal(sample["0.weight_mask"], masks["b"])
    assert int((sample["0.weight_orig"] * sample["0.weight_mask"] == 0).sum()) == 24


def test_an_infinite_mask_is_copied(here: Path) -> None:
    build = builder(MASKED)
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for step in (1, 2):
            torch.save(build().state_dict(), f"zoo/{run}/{step}.pth")
    assert torch.equal(sampled(tokens(), 0)["mask"], torch.full((4, 4), -torch.inf).triu(1))


def test_convolutions_have_low_rank_pairs(here: Path) -> None:
    """peft adapts a convolution by an A of [r, channels, height, width] and a B of [outputs, r, 1, 1]."""
    build = builder(ADAPTED)
    for run in ("a", "b"):
        for step in (1, 2):
            model = trained(build)
            model.save_pretrained(f"zoo/{run}/checkpoint-{step}")
    store = tokens(canonical=True)
    given = load_file("zoo/a/checkpoint-1/adapter_model.safetensors")
    stem = "base_model.model.0.lora_{}.weight"
    a, b = (given[stem.format(letter)] for letter in "AB")
    assert (a.shape, b.shape) == ((2, 2, 3, 3), (4, 2, 1, 1))
    back = {name: values[0] for name, values in store.detokenize(store[0].unsqueeze(0), torch.tensor([0])).items()}
    new_a, new_b = (back[stem.format(letter)] for letter in "AB")
    assert (new_a.shape, new_b.shape) == (a.shape, b.shape)
    torch.testing.assert_close(new_b.flatten(1) @ new_a.flatten(1), b.flatten(1) @ a.flatten(1), atol=1e-5, rtol=1e-4)
    # The form is balanced.
    torch.testing.assert_close(new_a.flatten(1) @ new_a.flatten(1).T, new_b.flatten(1).T @ new_b.flatten(1))


def test_all_saves_of_a_trainer_are_read(here: Path, capsys) -> None:
    """`Trainer.save_model()` writes into the folder that holds the checkpoints; its adapter is often the last one."""
    build = builder(ADAPTED)
    for run in ("a", "b"):
        for step in (2, 10):
            model = trained(build)
            model.save_pretrained(f"zoo/{run}/checkpoint-{step}")
        if run == "b":
            model = build()
        model.save_pretrained(f"zoo/{run}")
    store = tokens(canonical=False)
    assert [(entry.seed, entry.step) for entry in store.checkpoints] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    out = capsys.readouterr().out
    assert "zoo: zoo/a is left out, because it is the same as checkpoint-10" in out
    assert "zoo: zoo/a: 2 checkpoints: checkpoint-2, checkpoint-10" in out
    assert "zoo: zoo/b: 3 checkpoints: checkpoint-2, checkpoint-10, zoo/b" in out
    assert "tokens: 5 checkpoints of 2 runs; in each, 6 tensors with 71 numbers become 7 tokens of 32" in out
    manifest = json.loads(Path("results/given/zoo/0000-0000/manifest.json").read_text())
    assert manifest["summary"] == {
        "runs": {"zoo/a": ["checkpoint-2", "checkpoint-10"]},
        "left_out": {"zoo/a": "checkpoint-10"},
        "dtypes": ["float32"],
        "adapter": {
            "init_lora_weights": True,
            "lora_alpha": 8,
            "peft_type": "LORA",
            "qalora_group_size": 16,
            "r": 2,
            "use_dora": True,
        },
    }


def test_a_trainers_other_files_are_no_checkpoints(here: Path, capsys) -> None:
    build = builder(MASKED)
    for run in ("a", "b"):
        for step in (1, 2):
            folder = Path(f"zoo/{run}/checkpoint-{step}")
            folder.mkdir(parents=True)
            save_file(build().state_dict(), folder / "model.safetensors")
            for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin"):
                torch.save({"state": {}}, folder / name)
    assert len(tokens()) == 4
    assert "zoo: zoo/a: 2 checkpoints: checkpoint-1/model.safetensors, checkpoint-2/model.safetensors" in (
        capsys.readouterr().out
    )


def test_the_best_network_is_read_once_and_last(here: Path, capsys) -> None:
    """mmengine copies the best checkpoint so far to best_<metric>_epoch_<n>.pth."""
    build = builder(MASKED)
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for epoch in (1, 2):
            torch.save(build().state_dict(), f"zoo/{run}/epoch_{epoch}.pth")
        Path(f"zoo/{run}/best_mIoU_epoch_1.pth").write_bytes(Path(f"zoo/{run}/epoch_1.pth").read_bytes())
    assert len(tokens()) == 4
    assert "zoo/a/best_mIoU_epoch_1.pth is left out, because it is the same as epoch_1.pth" in capsys.readouterr().out


def test_what_a_file_holds_is_told(here: Path, capsys) -> None:
    """A training state with a prefix and a moving average; samples have the names of the network."""
    build = builder(MASKED)
    states = {}
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for step in (1, 2):
            model = build()
            states[run] = model.state_dict()
            wrapped = {f"module.{name}": tensor for name, tensor in states[run].items()}
            torch.save(
                {"epoch": step, "model": wrapped, "model_ema": build().state_dict()}, f"zoo/{run}/{step}.pth.tar"
            )
    sample = sampled(tokens(), 1)
    build().load_state_dict(sample)
    found = ["the checkpoint's 'model'; 'model_ema' left out, which zoo.weights can choose",
             "without the prefix 'module.' of the names"]  # fmt: skip
    assert f"zoo: zoo/a: read {found[0]}; {found[1]}" in capsys.readouterr().out
    manifest = json.loads(Path("results/given/zoo/0000-0000/manifest.json").read_text())
    assert manifest["summary"]["found"] == {"zoo/a": found}
    read = load_file("results/given/zoo/0001-0001/0001-000001.safetensors")
    assert all(torch.equal(read[name], states["b"][name]) for name in states["b"])


def test_a_model_in_several_files_is_one_checkpoint(here: Path, capsys) -> None:
    build = builder(LANGUAGE_MODEL)
    for run in ("a", "b"):
        for step in (1, 2):
            build().save_pretrained(f"zoo/{run}/checkpoint-{step}", max_shard_size="1KB")
    assert len(list(Path("zoo/a/checkpoint-1").glob("*.safetensors"))) > 1
    assert len(tokens()) == 4
    assert "zoo/a: 2 checkpoints: checkpoint-1/model.safetensors.index.json, checkpoint-2/" in capsys.readouterr().out


def test_observers_that_grew_are_scored(here: Path) -> None:
    """A new FakeQuantize has one scale, a trained one has one per row: a sample of the zoo loads all the same."""
    from rpg.cli import main

    build = builder(QAT)
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        for step in (1, 2):
            model = build()
            model(torch.randn(5, 4))
            torch.save(model.state_dict(), f"zoo/{run}/{step}.pt")
    sample = sampled(tokens(), 0)
    assert sample["0.weight_fake_quant.scale"].shape == (8,)
    save_file(sample, "sample.safetensors")
    main(["score", "--experiment", "given", "--weights", "sample.safetensors"])


def test_quantized_weights_are_refused(here: Path, capsys) -> None:
    """bitsandbytes 0.50.2 writes int8 weights with the scales `SCB`; 42 of 1,146 numbers would be generated."""
    build = builder(MASKED)
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        state = {**build().state_dict(), "linear.weight": torch.zeros(4, 4, dtype=torch.int8)}
        torch.save({**state, "linear.SCB": torch.ones(4)}, f"zoo/{run}/1.pt")
    with pytest.raises(SystemExit):
        tokens()
    error = capsys.readouterr().err
    assert "tensor 'linear.SCB' belongs to weights that bitsandbytes has quantized; call" in error


def test_batchnorm_may_lack_its_counter(here: Path) -> None:
    """torch 2.11.0 loads a plain state dict without it, as of files from before torch 0.4.1."""
    build = builder(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))\n"
    )
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        state = dict(build().state_dict())
        del state["1.num_batches_tracked"]
        build().load_state_dict(state)
        torch.save(state, f"zoo/{run}/1.pt")
    assert int(sampled(tokens(), 0)["1.num_batches_tracked"]) == 0


def test_a_lazy_network_is_refused(here: Path, capsys) -> None:
    builder(plain("nn.Sequential(nn.LazyLinear(8))"))
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        torch.save(nn.Sequential(nn.Linear(4, 8)).state_dict(), f"zoo/{run}/1.pt")
    with pytest.raises(SystemExit):
        tokens()
    assert "'0.weight' has no shape yet; call the network with one input" in capsys.readouterr().err


def test_an_adapter_may_have_a_name(here: Path) -> None:
    """peft writes any adapter but "default" into a folder of its name."""
    source = ADAPTED.replace("use_dora=True)", 'use_dora=True), adapter_name="mine"')
    build = builder(source)
    for run in ("a", "b"):
        model = trained(build)
        model.save_pretrained(f"zoo/{run}/checkpoint-1")
    given = load_file("zoo/a/checkpoint-1/mine/adapter_model.safetensors")
    store = tokens(canonical=False)
    back = store.detokenize(store[0].unsqueeze(0), torch.tensor([0]))
    assert back.keys() == given.keys()
    for name, tensor in given.items():
        torch.testing.assert_close(back[name][0], tensor, atol=1e-5, rtol=1e-5)


def test_the_only_adapter_may_have_any_name(here: Path, capsys) -> None:
    """`build` has the adapter "default", the folder has "mine"."""
    build = builder(ADAPTED)
    scope: dict = {}
    exec(ADAPTED.replace("use_dora=True)", 'use_dora=True), adapter_name="mine"'), scope)
    for run in ("a", "b"):
        for step in (1, 2):
            trained(scope["build"]).save_pretrained(f"zoo/{run}/checkpoint-{step}")
    given = load_file("zoo/a/checkpoint-1/mine/adapter_model.safetensors")
    assert not Path("zoo/a/checkpoint-1/adapter_config.json").exists()
    assert len(tokens(canonical=False)) == 4
    read = load_file("results/given/zoo/0000-0000/0000-000000/adapter_model.safetensors")
    assert all(torch.equal(read[name], given[name]) for name in given)
    two = build()
    two.add_adapter("x", two.peft_config["default"])
    two.add_adapter("y", two.peft_config["default"])
    two.save_pretrained("zoo/a/checkpoint-3", selected_adapters=["x", "y"])
    with pytest.raises(SystemExit):
        tokens(canonical=False)
    assert "zoo/a/checkpoint-3: has adapters of several names (x, y); choose one by adapter_name= in mine:build" in (
        capsys.readouterr().err
    )


def test_an_adapter_needs_its_configuration(here: Path, capsys) -> None:
    build = builder(ADAPTED)
    for run in ("a", "b"):
        build().save_pretrained(f"zoo/{run}/checkpoint-1")
    Path("zoo/b/checkpoint-1/adapter_config.json").unlink()
    with pytest.raises(SystemExit):
        tokens(canonical=False)
    assert "zoo/b/checkpoint-1/adapter_model.safetensors: adapter_config.json is missing beside it; copy" in (
        capsys.readouterr().err
    )


def test_adapters_without_a_product_are_found_before_a_checkpoint_is_read(here: Path, capsys) -> None:
    """B · A of peft's target_parameters is no plain product, so that tokens.canonical must be false."""
    builder(ADAPTED.replace("use_dora=True", 'target_parameters=["2.weight"]').replace('["0", "2"]', '["0"]'))
    with pytest.raises(SystemExit):
        tokens(canonical=True)
    error = capsys.readouterr().err
    assert "params.yaml: tokens.canonical: the adapters' target_parameters makes weights that no product" in error


def test_a_folder_of_runs_names_them(here: Path, capsys) -> None:
    """Ray Tune writes experiment/trial/checkpoint_000000/file: a trial is a run, the experiment is none."""
    build = builder(MASKED)
    for trial in ("trial_0", "trial_1"):
        for step in (0, 1):
            folder = Path(f"zoo/a/{trial}/checkpoint_00000{step}")
            folder.mkdir(parents=True)
            torch.save(build().state_dict(), folder / "model.pt")
    with pytest.raises(SystemExit):
        tokens()
    assert (
        "zoo/a: no checkpoint (.safetensors .pth .pt .bin .ckpt .pth.tar) in it; list its folders, such as zoo/a/tria"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize("related", [True, False])
def test_a_folder_of_separate_runs_is_told(here: Path, capsys, related: bool) -> None:
    """A zoo of one run per file looks like one run of many saves, which RPG cannot learn."""
    build = builder(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 8))\n"
    )
    for run in ("a", "b"):
        Path("zoo", run).mkdir(parents=True)
        first = build().state_dict()
        for seed in range(3):
            own = {name: tensor + seed / 100 for name, tensor in first.items()} if related else build().state_dict()
            torch.save(own, f"zoo/{run}/{seed}.pt")
    tokens()
    told = "zoo/a: its checkpoints differ as much as separate training runs" in capsys.readouterr().err
    assert told is not related


@pytest.mark.parametrize("key", ["target_parameters", "use_bdlora"])
def test_adapters_without_a_plain_product_have_no_canonical_form(here: Path, capsys, key: str) -> None:
    build = builder(ADAPTED)
    for run in ("a", "b"):
        build().save_pretrained(f"zoo/{run}/checkpoint-1")
    tree = {**GIVEN, "task": {**GIVEN["task"], "build": "mine:build", "score": "mine:score"}}
    write_tree(Path(), given={**tree, "tokens": {"width": 32, "canonical": True}})
    run_layers(Path(), "zoo", "collect", experiment="given")
    for path in Path("results/given/zoo").rglob("adapter_config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), key: ["experts"]}))
    with pytest.raises(SystemExit):
        run_layers(Path(), "tokens", experiment="given")
    assert f"tokens.canonical: the adapters' {key} makes weights that no product" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "changes", "key"),
    [
        (LoraConfig, {"r": 4}, "r"),
        (LoraConfig, {"lora_alpha": 32}, "lora_alpha"),
        (LoraConfig, {"use_rslora": True}, "use_rslora"),
        (LoraConfig, {"use_dora": True}, "use_dora"),
        (LoraConfig, {"alpha_pattern": {"0": 64}}, "alpha_pattern"),
        (LoraConfig, {"rank_pattern": {"0": 2}}, "rank_pattern"),
        (LoraConfig, {"init_lora_weights": "pissa"}, "init_lora_weights"),
        (LoraConfig, {"init_lora_weights": "olora"}, "init_lora_weights"),
        (LoHaConfig, {"alpha": 32}, "alpha"),
        (LoKrConfig, {"alpha": 32}, "alpha"),
        (LoKrConfig, {"decompose_factor": 4}, "decompose_factor"),
    ],
)
def test_settings_that_enter_the_function_are_compared(tmp_path: Path, kind, changes: dict, key: str) -> None:
    def saved(**settings: object) -> dict:
        model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), kind(target_modules=["0"], **settings))
        model.save_pretrained(tmp_path)
        return json.loads((tmp_path / "adapter_config.json").read_text())

    own = kind(target_modules=["0"])
    assert difference(saved(), own, "mine:build") is None
    assert difference(saved(**changes), own, "mine:build").startswith(f"{key} is ")


def test_names_are_compared_as_a_set() -> None:
    """peft 0.21.2 writes target_parameters in the order of a set, which differs between processes."""
    own = LoraConfig(target_modules=["0"], target_parameters=["a", "b"], trainable_token_indices=[1, 5])
    same = {"target_parameters": ["b", "a"], "trainable_token_indices": [1, 5]}
    assert difference(same, own, "mine:build") is None
    # The rows of the weights have the order of the indices.
    assert difference({**same, "trainable_token_indices": [5, 1]}, own, "mine:build") is not None
    assert difference({**same, "target_parameters": ["b"]}, own, "mine:build").startswith("target_parameters is ['b']")


def test_a_fast_pissa_is_refused() -> None:
    """peft 0.21.2 takes torch.svd_lowrank's result, which depends on random numbers, out of the base at each start."""
    own = LoraConfig(target_modules=["0"], init_lora_weights="pissa_niter_4")
    why = difference({"init_lora_weights": "pissa_niter_4"}, own, "mine:build")
    assert why.startswith("init_lora_weights is pissa_niter_4: it takes a share out of the base model that depends on")
    assert "path_initial_model_for_weight_conversion" in why


def test_other_settings_may_differ(tmp_path: Path) -> None:
    own = LoraConfig(target_modules=["0"], lora_dropout=0.1, init_lora_weights="gaussian", inference_mode=True)
    other = LoraConfig(target_modules="all-linear", base_model_name_or_path="x", task_type="CAUSAL_LM", revision="y")
    other.save_pretrained(tmp_path)
    assert difference(json.loads((tmp_path / "adapter_config.json").read_text()), own, "mine:build") is None
