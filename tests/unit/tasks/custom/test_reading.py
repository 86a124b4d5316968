"""Checkpoints as tools write them.

torch 2.11.0, transformers 5.23.0, timm 1.0.31, onedl-mmengine 0.10.12, torchao 0.18.0, huggingface_hub 2.4.0.
Lightning is not among the packages: its checkpoints are dictionaries with the same keys.
"""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from rpg.tasks.custom.reading import (
    as_torch_loads,
    as_transformers_loads,
    check_distributed,
    cosine,
    is_checkpoint,
    read_weights,
)
from rpg.utils.errors import UserError


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


OWN = list(network().state_dict())


def same(read: dict[str, Tensor], expected: Any) -> bool:
    return list(read) == list(expected) and all(torch.equal(read[name], expected[name]) for name in read)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "module", "anything"])
def test_the_only_state_dict_is_the_network(tmp_path: Path, key: str) -> None:
    state, optimizer = network().state_dict(), torch.optim.AdamW(network().parameters()).state_dict()
    found = read_weights(saved(tmp_path / "1.pt", {"epoch": 3, key: state, "optimizer": optimizer}), OWN)
    assert same(found.tensors, state)
    assert found.notes == [f"the checkpoint's '{key}'"]


def test_inner_dictionaries_are_searched(tmp_path: Path) -> None:
    """torch's recipe for torch.distributed.checkpoint keeps {"app": {"model": ..., "optim": ...}}."""
    state = network().state_dict()
    moments = {name: {"exp_avg": tensor, "step": torch.tensor(1.0)} for name, tensor in state.items()}
    found = read_weights(saved(tmp_path / "1.pt", {"app": {"model": state, "optim": {"state": moments}}}), OWN)
    assert same(found.tensors, state)
    assert found.notes == ["the checkpoint's 'app.model'"]


def test_several_networks_are_named_or_chosen(tmp_path: Path) -> None:
    student, teacher = network().state_dict(), network().state_dict()
    path = saved(tmp_path / "1.pt", {"student": student, "teacher": teacher})
    with pytest.raises(UserError, match=r"holds several state dicts; name one in zoo.weights: 'student', 'teacher'"):
        read_weights(path, OWN)
    assert same(read_weights(path, OWN, "teacher").tensors, teacher)
    with pytest.raises(UserError, match=r"has no 'ema', as zoo.weights asks; its state dicts are 'student', 'teacher'"):
        read_weights(path, OWN, "ema")
    with pytest.raises(UserError, match=r"has no 'ema', as zoo.weights asks; it is a state dict itself"):
        read_weights(saved(tmp_path / "2.pt", student), OWN, "ema")


def test_a_network_that_fits_is_found_beside_others(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Linear(4, 8)).state_dict()
    path = saved(tmp_path / "1.pt", {"generator": network().state_dict(), "discriminator": other})
    assert read_weights(path, OWN).notes == [
        "the checkpoint's 'generator'; 'discriminator' left out, which zoo.weights can choose"
    ]


def test_timm_saves_a_moving_average_and_its_options(tmp_path: Path) -> None:
    """timm's CheckpointSaver writes state_dict, state_dict_ema and args, an argparse.Namespace."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    model, other = network(), network()
    average = ModelEmaV3(other)
    args = argparse.Namespace(model="mlp", lr=0.1, output=Path("x"))
    folder = str(tmp_path)
    saver = CheckpointSaver(
        model, torch.optim.AdamW(model.parameters()), args, average, checkpoint_dir=folder, recovery_dir=folder
    )
    saver.save_checkpoint(1, 50.0)
    path = tmp_path / "checkpoint-1.pth.tar"
    assert sorted(file.name for file in tmp_path.iterdir() if is_checkpoint(file)) == [
        "checkpoint-1.pth.tar", "last.pth.tar", "model_best.pth.tar"
    ]  # fmt: skip
    found = read_weights(path, OWN)
    assert same(found.tensors, model.state_dict())
    assert found.notes == ["the checkpoint's 'state_dict'; 'state_dict_ema' left out, which zoo.weights can choose"]
    assert same(read_weights(path, OWN, "state_dict_ema").tensors, other.state_dict())


def test_mmengine_saves_its_log(tmp_path: Path) -> None:
    """mmengine's Runner saves HistoryBuffer objects of NumPy arrays, which name their functions by getattr."""
    from mmengine.logging import MessageHub
    from mmengine.runner import save_checkpoint

    hub, state = MessageHub.get_instance("reading"), network().state_dict()
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("iter", 3)
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"meta": {"epoch": 1}, "state_dict": state, "message_hub": hub.state_dict()}, str(path))
    found = read_weights(path, OWN)
    assert same(found.tensors, state)
    assert found.notes == ["the checkpoint's 'state_dict'"]


def lightning(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of Lightning's checkpoints; the names of the tensors begin with a module's attributes."""
    named = {f"{part}.{name}": tensor for part, state in attributes.items() for name, tensor in state.items()}
    score = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}}
    return {"epoch": 1, "pytorch-lightning_version": "2.6.6", "state_dict": named, "loops": {}, "callbacks": score}


def test_lightning_s_attribute_is_found(tmp_path: Path) -> None:
    state = network().state_dict()
    path = saved(tmp_path / "1.ckpt", lightning({"backbone": state, "loss": {"weight": torch.ones(3)}}))
    found = read_weights(path, OWN)
    assert same(found.tensors, state)
    assert found.notes == [
        "the checkpoint's 'state_dict'", "without the prefix 'backbone.' of the names; 'loss.weight' left out"
    ]  # fmt: skip


def test_lightning_s_attributes_may_be_several_networks(tmp_path: Path) -> None:
    model, other = network().state_dict(), network().state_dict()
    assert same(read_weights(saved(tmp_path / "1.ckpt", lightning({"model": model, "ema": other})), OWN).tensors, model)
    path = saved(tmp_path / "2.ckpt", lightning({"model": model, "teacher": other}))
    with pytest.raises(UserError, match=r"several networks fit; name the prefix of one in zoo.weights: 'model.', 't"):
        read_weights(path, OWN)
    assert same(read_weights(path, OWN, "teacher.").tensors, other)
    with pytest.raises(UserError, match=r"no name begins with 'x.', as zoo.weights asks"):
        read_weights(path, OWN, "x.")


@pytest.mark.parametrize(
    ("wrap", "notes"),
    [
        (nn.DataParallel, ["without the prefix 'module.' of the names"]),
        (torch.compile, ["without '_orig_mod' in the names"]),
        (lambda model: nn.Sequential(*map(torch.compile, model)), ["without '_orig_mod' in the names"]),
        (torch.optim.swa_utils.AveragedModel, ["without n_averaged", "without the prefix 'module.' of the names"]),
        (
            lambda model: nn.DataParallel(torch.compile(model)),
            ["without '_orig_mod' in the names", "without the prefix 'module.' of the names"],
        ),
    ],
)
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, wrap: Callable, notes: list[str]) -> None:
    model = network()
    found = read_weights(saved(tmp_path / "1.pt", dict(wrap(model).state_dict())), OWN)
    assert same(found.tensors, model.state_dict())
    assert found.notes == notes


def test_the_place_of_the_network_is_known(tmp_path: Path) -> None:
    """A writer finds the state dict by identity, and each tensor by its name there."""
    model = network()
    wrapped = nn.DataParallel(torch.compile(model)).state_dict()
    tree = {"app": {"model": wrapped, "model_ema": model.state_dict()}, "epoch": 3}
    place = read_weights(saved(tmp_path / "1.pt", tree), OWN).place
    assert place.content.keys() == tree.keys()
    assert place.state_dict is place.content["app"]["model"]
    assert (place.key, list(place.others), place.files) == ("app.model", ["app.model_ema"], {})
    assert place.others["app.model_ema"] is place.content["app"]["model_ema"]
    assert (place.prefix, place.inner) == ("module.", ("_orig_mod",))
    assert place.names == {name: f"module._orig_mod.{name}" for name in OWN}
    plain = read_weights(saved(tmp_path / "2.pt", model.state_dict()), OWN).place
    assert plain.state_dict is plain.content
    assert (plain.key, plain.names) == (None, {name: name for name in OWN})


def test_names_that_fit_stay(tmp_path: Path) -> None:
    """A network may have a module of the name "module"."""
    model = nn.ModuleDict({"module": network()})
    found = read_weights(saved(tmp_path / "1.pt", model.state_dict()), list(model.state_dict()))
    assert same(found.tensors, model.state_dict())
    assert found.notes == []
    # Tensors beside the prefix are no wrapper's.
    mixed = {**model.state_dict(), "head.weight": torch.ones(2)}
    assert list(read_weights(saved(tmp_path / "2.pt", mixed), OWN).tensors) == list(mixed)


class Code:
    """A pickle of it calls a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "code",
    [
        Code(os.system, "touch executed"),
        Code(getattr, Code(__import__, "os"), "system"),
        Code(exec, "open('executed', 'w')"),
    ],
)
def test_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch, code: Code) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "1.pth.tar", {"state_dict": network().state_dict(), "args": code})
    with pytest.raises(UserError, match="refused, because it"):
        read_weights(path, OWN)
    assert not Path("executed").exists()


def test_a_record_s_function_does_not_run(tmp_path: Path) -> None:
    """getattr is among the records; it stands for an empty object."""
    path = saved(tmp_path / "1.pt", {"state_dict": network().state_dict(), "x": Code(getattr, "text", "upper")})
    assert list(read_weights(path, OWN).tensors) == OWN


def test_a_distributed_checkpoint_says_how_to_convert_it(tmp_path: Path) -> None:
    """.metadata of torch.distributed.checkpoint is a pickle of protocol 4, which weights_only=True does not read."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    state, folder = network().state_dict(), tmp_path / "step-1"
    checkpoint.save({"model": state, "step": 1}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(UserError, match=re.escape(f"dcp_to_torch {folder} {folder}.pth`")):
        check_distributed(tmp_path)
    dcp_to_torch_save(folder, tmp_path / "step-1.pth")
    check_distributed(tmp_path)
    assert same(read_weights(tmp_path / "step-1.pth", OWN).tensors, state)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_network_in_several_files_is_read_by_its_index(tmp_path: Path, suffix: str) -> None:
    from huggingface_hub import save_torch_state_dict

    state = network().state_dict()
    pattern = {"safetensors": "model{suffix}.safetensors", "bin": "pytorch_model{suffix}.bin"}[suffix]
    save_torch_state_dict(
        state, tmp_path, max_shard_size=130, filename_pattern=pattern, safe_serialization=suffix == "safetensors"
    )
    (index,) = [path for path in tmp_path.iterdir() if is_checkpoint(path)]
    assert index.name.endswith(f".{suffix}.index.json")
    found = read_weights(index, OWN)
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)
    tree = json.loads(index.read_text())
    assert found.notes == [f"{len(set(tree['weight_map'].values()))} files by {index.name}"]
    index.write_text(json.dumps({"weight_map": {**tree["weight_map"], "x": tree["weight_map"]["0.bias"]}}))
    with pytest.raises(UserError, match=r"tensor 'x' is not in .*; save the checkpoint again"):
        read_weights(index, OWN)
    for wrong in ({"weight_map": {"x": "../secret.bin"}}, {"weight_map": [1]}, {}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"has no weight_map from tensors to files of its folder"):
            read_weights(index, OWN)


def test_dtensors_are_read_if_they_are_whole(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, state = init_device_mesh("cpu", (1,)), network().state_dict()
        saved(tmp_path / "1.pt", {name: distribute_tensor(tensor, mesh) for name, tensor in state.items()})
        part = DTensor.from_local(torch.ones(2, 4), mesh, [Shard(0)], run_check=False, shape=(8, 4), stride=(4, 1))
        saved(tmp_path / "2.pt", {**state, "0.weight": part})
    finally:
        distributed.destroy_process_group()
    assert same(read_weights(tmp_path / "1.pt", OWN).tensors, state)
    with pytest.raises(UserError, match=r"tensor '0.weight' is one process's part of a DTensor; save full tensors"):
        read_weights(tmp_path / "2.pt", OWN)


@pytest.mark.filterwarnings("ignore")
def test_torchao_s_tensors_are_quantized(tmp_path: Path) -> None:
    """An Int8Tensor has the shape of the weights, so that it is larger than its file."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.Sequential(nn.Linear(64, 64))
    quantize_(model, Int8WeightOnlyConfig())
    with pytest.raises(UserError, match=r"tensor '0.weight' is quantized by torchao; call dequantize\(\)"):
        read_weights(saved(tmp_path / "1.pt", model.state_dict()), list(model.state_dict()))


def test_torch_maps_the_old_names_of_weight_norm() -> None:
    old = weight_norm(nn.Linear(3, 2)).state_dict()
    after = as_torch_loads(parametrizations.weight_norm(nn.Linear(3, 2)), old, ())
    assert list(after) == ["bias", "parametrizations.weight.original0", "parametrizations.weight.original1"]
    assert torch.equal(after["parametrizations.weight.original1"], old["weight_v"])
    assert list(old) == ["bias", "weight_g", "weight_v"]


@pytest.mark.filterwarnings("ignore")
def test_observers_take_the_shape_of_the_file() -> None:
    """A new FakeQuantize has one scale, and one per row after its first batch."""
    from torch.ao import quantization

    def build() -> Any:
        model = nn.Sequential(nn.Linear(4, 8))
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        return quantization.prepare_qat(model.train())

    model = build()
    model(torch.randn(5, 4))
    name = "0.weight_fake_quant.scale"
    state = dict(model.state_dict())
    assert (build().state_dict()[name].shape, state[name].shape) == ((1,), (8,))
    after = as_torch_loads(build(), state, [name for name, _ in model.named_buffers()])
    assert all(torch.equal(after[name], state[name]) for name in after)


def test_what_torch_does_not_load_stays_refused() -> None:
    state = dict(network().state_dict())
    assert as_torch_loads(network(), {**state, "x": torch.ones(1)}, ()) is None
    assert as_torch_loads(network(), {**state, "0.bias": torch.ones(5)}, ()) is None

    class Lenient(nn.Linear):
        """Its loading misses no weight."""

        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)
            arguments[4].clear()

    # The weights of the new network are no checkpoint's.
    assert as_torch_loads(Lenient(3, 2), {"bias": torch.ones(2)}, ()) is None


def test_transformers_maps_the_names_of_its_files() -> None:
    """Mixtral's files have a matrix per expert, its state dict one tensor for all."""
    from safetensors.torch import load
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        given = load(Path(folder, "model.safetensors").read_bytes())
    assert "model.layers.0.block_sparse_moe.experts.1.w2.weight" in given
    after = as_transformers_loads(MixtralForCausalLM(config), given)
    assert same(after, model.state_dict())
    del given["model.norm.weight"]
    assert as_transformers_loads(MixtralForCausalLM(config), given) is None


def test_cosine_of_matrices_and_of_networks_without_them() -> None:
    a = {"m": torch.tensor([[1.0, 0.0]]), "v": torch.ones(3), "n": torch.tensor(5)}
    b = {"m": torch.tensor([[0.0, 2.0]]), "v": torch.ones(3), "n": torch.tensor(5)}
    assert cosine(a, b) == 0.0
    assert cosine(a, a) == 1.0
    assert cosine({"v": torch.tensor([3.0, 4.0])}, {"v": torch.tensor([4.0, 3.0])}) == pytest.approx(24 / 25)
