"""Zoos as libraries write them, one case each: the user's module, the writer of the zoo, and what is right.

The writers are in benchmarks/own_zoos/writers.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from benchmarks.own_zoos import writers as write
from benchmarks.own_zoos.product import Outcome
from benchmarks.own_zoos.sources import (
    LORA,
    adapter,
    attention,
    digits,
    language_adapter,
    language_model,
    sequence,
)

TORCH, NUMPY, PEFT, TRANSFORMERS, TIMM, MMENGINE, TORCHAO, ACCELERATE, LIGHTNING, RAY = (
    f"{name} {version(name)}"
    for name in (
        "torch", "numpy", "peft", "transformers", "timm", "onedl-mmengine", "torchao", "accelerate",
        "pytorch-lightning", "ray",
    )
)  # fmt: skip
LINEAR = ("nn.Linear(64, 24)", "nn.ReLU()", "nn.Linear(24, 10)")
MLP = sequence(*LINEAR)
CANONICAL, AS_IS = {"canonical": True}, {"canonical": False}
CONVOLUTIONS = (
    "nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), "
    "nn.Linear(128, 10))"
)
BD_LORA = f"LoraConfig({LORA}, use_bdlora=BdLoraConfig(['0'], ['2'], nblocks=2))"
EXPERTS = "num_local_experts=2, num_experts_per_tok=1"
# The experts' own tensors, which belong to no linear module.
EXPERTS_OWN = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")


def _target_parameters(*names: str) -> str:
    settings = f"r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj', 'o_proj'], target_parameters={list(names)}"
    return language_adapter(f"LoraConfig({settings})", "Mixtral", EXPERTS)


PLAIN_LORA = adapter(f"LoraConfig({LORA})")
OTHER_ALPHA = "r=4, alpha=32, target_modules=['0', '2']"
ALPHA = "r=4, alpha=8, target_modules=['0', '2']"
PROJECTIONS = "'q_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'"
LLAMA_LORA = language_adapter(f"LoraConfig(r=4, lora_alpha=8, target_modules=[{PROJECTIONS}])")
LLAMA, TIED = language_model("Llama"), language_model("Llama", "tie_word_embeddings=True")
MIXTRAL = language_model("Mixtral", EXPERTS)
FROZEN = sequence(
    *LINEAR,
    then="nn.init.normal_(network[0].weight, std=0.2, generator=torch.Generator().manual_seed(7)); "
    "nn.init.zeros_(network[0].bias); network[0].requires_grad_(False)",
)
QAT = """
from torch.ao import quantization

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.hidden, self.classes, self.spare = nn.Linear(64, 24), nn.Linear(24, 10), nn.Linear(24, 2)

    def forward(self, images):
        return self.dequant(self.classes(self.hidden(self.quant(images)).relu()))

def build():
    network = Network()
    network.qconfig = quantization.get_default_qat_qconfig("BACKEND")
    return quantization.prepare_qat(network.train())
"""


@dataclass(frozen=True)
class Case:
    """A zoo: `writer` trains it with the module `trained`, and the user gives the module `mine` to RPG.

    `right` is the right verdict: "right" or "warned", or a part of the line with which RPG must refuse the zoo.
    `trained` defaults to `mine`. `checkpoints` are the patterns for `rpg init`, `arguments` its further arguments, and
    `given` the functions of the module that it gets. `tokens` are keys of the block `tokens` to change afterwards.
    """

    name: str
    by: str
    mine: str
    writer: write.Writer
    right: str = "right"
    trained: str = ""
    tokens: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ("zoo/*",)
    arguments: tuple[str, ...] = ()
    given: tuple[str, ...] = ("build", "score")

    @property
    def verdict(self) -> str:
        """The right verdict."""
        return self.right if self.right in ("right", "warned") else "refused"

    def judged(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the verdict "misled" if RPG refuses the zoo for another reason than the right one."""
        misled = self.verdict == outcome.verdict == "refused" and self.right not in outcome.says
        return replace(outcome, verdict="misled") if misled else outcome


def _adapters(name: str, mine: str, right: str = "right", trained: str = "", canonical: bool = False) -> Case:
    return Case(name, PEFT, mine, write.pretrained, right, trained, CANONICAL if canonical else AS_IS)


def _lora(settings: str) -> str:
    return adapter(f"LoraConfig({LORA}, {settings})")


ADAPTERS = [
    _adapters("LoRA", PLAIN_LORA),
    _adapters("LoRA, canonical", PLAIN_LORA, canonical=True),
    _adapters(
        "target_parameters, canonical",
        _target_parameters(*EXPERTS_OWN),
        "tokens.canonical: the adapters' target_parameters",
        canonical=True,
    ),
    _adapters("target_parameters", _target_parameters(*EXPERTS_OWN)),
    _adapters("BD-LoRA, canonical", adapter(BD_LORA), "use_bdlora", canonical=True),
    _adapters("BD-LoRA", adapter(BD_LORA)),
    _adapters("PiSSA, build has LoRA", PLAIN_LORA, "init_lora_weights", _lora("init_lora_weights='pissa'")),
    _adapters("PiSSA", _lora("init_lora_weights='pissa'")),
    _adapters("PiSSA with niter", _lora("init_lora_weights='pissa_niter_1'"), "init_lora_weights"),
    _adapters("OLoRA, build has LoRA", PLAIN_LORA, "init_lora_weights", _lora("init_lora_weights='olora'")),
    _adapters("OLoRA", _lora("init_lora_weights='olora'")),
    _adapters("alpha_pattern, build has none", PLAIN_LORA, "alpha_pattern", _lora("alpha_pattern={'0': 64}")),
    _adapters("alpha_pattern", _lora("alpha_pattern={'0': 64}")),
    _adapters("rank_pattern, build has none", PLAIN_LORA, "rank_pattern", _lora("rank_pattern={'0': 8}")),
    _adapters("rank_pattern", _lora("rank_pattern={'0': 8}")),
    _adapters(
        "LoHa, other alpha in build",
        adapter(f"LoHaConfig({ALPHA})"),
        "alpha is 32",
        adapter(f"LoHaConfig({OTHER_ALPHA})"),
    ),
    _adapters("LoHa", adapter(f"LoHaConfig({OTHER_ALPHA})")),
    _adapters(
        "LoKr, other alpha in build",
        adapter(f"LoKrConfig({ALPHA})"),
        "alpha is 32",
        adapter(f"LoKrConfig({OTHER_ALPHA})"),
    ),
    _adapters("LoKr", adapter(f"LoKrConfig({OTHER_ALPHA})")),
    _adapters("AdaLoRA", adapter("AdaLoraConfig(init_r=4, lora_alpha=8, total_step=160, target_modules=['0', '2'])")),
    _adapters(
        "LoRA on an embedding", language_adapter(f"LoraConfig(r=4, target_modules=['embed_tokens', {PROJECTIONS}])")
    ),
    _adapters(
        "Conv2d LoRA, canonical", adapter("LoraConfig(r=4, target_modules=['1', '4'])", CONVOLUTIONS), canonical=True
    ),
    _adapters(
        "Conv2d DoRA, canonical",
        adapter("LoraConfig(r=4, target_modules=['1', '4'], use_dora=True)", CONVOLUTIONS),
        canonical=True,
    ),
    _adapters("LoRA and modules_to_save", adapter("LoraConfig(r=4, target_modules=['0'], modules_to_save=['2'])")),
    _adapters("LoRA with trained biases", _lora("bias='all'")),
    _adapters("adapter of another name", adapter(f"LoraConfig({LORA})", also=", adapter_name='mine'")),
    _adapters(
        "adapter of another name, build has default",
        PLAIN_LORA,
        trained=adapter(f"LoraConfig({LORA})", also=", adapter_name='mine'"),
    ),
    _adapters("LoRA with lora_bias", _lora("lora_bias=True")),
    _adapters(
        "LoRA with trainable_token_indices",
        language_adapter(
            f"LoraConfig(r=4, lora_alpha=8, target_modules=[{PROJECTIONS}], trainable_token_indices=[1, 5])"
        ),
    ),
    Case("adapter's file alone", PEFT, PLAIN_LORA, write.adapter_files, "adapter_config.json", tokens=AS_IS),
    Case("mixed ranks", PEFT, PLAIN_LORA, write.mixed_ranks, "r is 8", tokens=AS_IS),
    Case("Trainer, adapter, save_model", TRANSFORMERS, LLAMA_LORA, write.trainer(final=True), tokens=AS_IS),
]
TRAINERS = [
    Case("Trainer", TRANSFORMERS, LLAMA, write.trainer(final=False)),
    Case("Trainer, save_model", TRANSFORMERS, LLAMA, write.trainer(final=True)),
    Case("tied weights, state_dict", TRANSFORMERS, TIED, write.states()),
    Case("tied weights, save_pretrained", TRANSFORMERS, TIED, write.pretrained),
    Case("save_pretrained in several files", TRANSFORMERS, LLAMA, write.sharded),
    Case("save_state", ACCELERATE, MLP, write.accelerate_state),
    Case("Mixtral, state_dict", TRANSFORMERS, MIXTRAL, write.states()),
    Case("Mixtral, save_pretrained", TRANSFORMERS, MIXTRAL, write.pretrained),
    Case("timm, CheckpointSaver", TIMM, MLP, write.timm_saver),
    Case("timm, EMA", TIMM, MLP, write.timm_saver, arguments=("--weights", "state_dict_ema")),
    Case("mmengine, state dict and best_*.pth", MMENGINE, MLP, write.mmengine_best),
    Case("mmengine, whole checkpoint", MMENGINE, MLP, write.mmengine_whole),
    Case("Lightning", LIGHTNING, MLP, write.lightning()),
    Case("Lightning, with a teacher", LIGHTNING, MLP, write.lightning("teacher"), "zoo.weights"),
    Case(
        "Lightning, the student",
        LIGHTNING,
        MLP,
        write.lightning("teacher"),
        arguments=("--weights", "model."),
    ),
    Case("model_state_dict", TORCH, MLP, write.states(write.training_state)),
    Case("two networks", TORCH, MLP, write.states(write.two_networks), "zoo.weights"),
    Case("torch.distributed.checkpoint", TORCH, MLP, write.distributed(False), "dcp_to_torch"),
    Case("torch.distributed.checkpoint, converted", TORCH, MLP, write.distributed(True)),
    Case("Ray Tune, the trials", RAY, MLP, write.ray, checkpoints=("zoo/tune/report_*",)),
    Case("Ray Tune, all checkpoints", RAY, MLP, write.ray, checkpoints=("zoo/tune/*/checkpoint_*/model.pt",)),
    Case("Ray Tune, the root", RAY, MLP, write.ray, "zoo/tune/report", checkpoints=("zoo/tune",)),
    Case("a folder of seeds as one run", TORCH, MLP, write.seeds, "warned", checkpoints=("zoo",)),
    Case("a folder of seeds", TORCH, MLP, write.seeds, checkpoints=("zoo/*.pth",)),
    Case("a folder of seeds and epochs", TORCH, MLP, write.flat, checkpoints=("zoo/*.pth",)),
    Case(
        "a folder of seeds and numbers",
        TORCH,
        MLP,
        write.numbered,
        checkpoints=("zoo/*",),
        arguments=("--state-from", "_(.)_"),
    ),
    Case("one array", NUMPY, MLP, write.one_array(".npy"), checkpoints=("zoo/weights.npy",)),
    Case("one array, no build", NUMPY, MLP, write.one_array(".npz"), checkpoints=("zoo/weights.npz",), given=()),
    Case("no score", TORCH, MLP, write.states(), given=("build",)),
    Case("no build", TORCH, MLP, write.states(), given=()),
    Case("no build, prefix module.", TORCH, MLP, write.states(write.data_parallel), given=()),
    Case("one module only", TORCH, MLP, write.states(), arguments=("--only", "0.*")),
    Case("a run held out", TORCH, MLP, write.three_runs, arguments=("--held-out", "zoo/c")),
]
NETWORKS = [
    Case("plain", TORCH, MLP, write.states()),
    Case("frozen modules", TORCH, FROZEN, write.states()),
    Case(
        "spectral_norm",
        TORCH,
        sequence("parametrizations.spectral_norm(nn.Linear(64, 24))", *LINEAR[1:]),
        write.states(),
    ),
    Case("pruning", TORCH, sequence(*LINEAR, then='prune.identity(network[0], "weight")'), write.pruned),
    Case("old weight_norm", TORCH, sequence(*LINEAR, then="weight_norm(network[0])"), write.states()),
    Case(
        "old weight_norm, build has the new one",
        TORCH,
        sequence(*LINEAR, then="parametrizations.weight_norm(network[0])"),
        write.states(),
        trained=sequence(*LINEAR, then="weight_norm(network[0])"),
    ),
    Case(
        "BatchNorm without num_batches_tracked",
        TORCH,
        sequence(LINEAR[0], "nn.BatchNorm1d(24)", *LINEAR[1:]),
        write.states(write.without_counters),
    ),
    Case("lazy modules", TORCH, sequence("nn.LazyLinear(24)", *LINEAR[1:]), write.states(), "has no shape yet", MLP),
    Case(
        "attention mask of -1e9",
        TORCH,
        attention("torch.full((8, 8), -1e9).triu(1)", "heat + self.mask"),
        write.states(),
    ),
    Case(
        "attention mask of -inf",
        TORCH,
        attention("torch.full((8, 8), -torch.inf).triu(1)", "heat + self.mask"),
        write.states(),
    ),
    Case(
        "attention mask by tril",
        TORCH,
        attention("torch.ones(8, 8).tril()", "heat.masked_fill(self.mask == 0, -torch.inf)"),
        write.states(),
    ),
    Case("QAT observers", TORCH, digits(QAT.replace("BACKEND", "fbgemm")), write.states()),
    Case("QAT observers with Inf", TORCH, digits(QAT.replace("BACKEND", "qnnpack")), write.states()),
    Case("bitsandbytes, 8 bits", "keys of bitsandbytes", MLP, write.states(write.eight_bits), "bitsandbytes"),
    Case("bitsandbytes, 4 bits", "keys of bitsandbytes", MLP, write.states(write.four_bits), "bitsandbytes"),
    Case("torchao, 8 bits", TORCHAO, f"import torchao\n{MLP}", write.states(write.torchao_int8), "quantized"),
    Case("DTensor", TORCH, f"import torch.distributed.fsdp\n{MLP}", write.dtensors),
    Case("prefix module.", TORCH, MLP, write.states(write.data_parallel)),
    Case("prefix _orig_mod.", TORCH, MLP, write.states(write.compiled)),
    Case("prefixes of compiled modules", TORCH, MLP, write.states(write.compiled_inside)),
    Case("n_averaged", TORCH, MLP, write.states(write.averaged)),
]
CASES = {case.name: case for case in [*NETWORKS, *ADAPTERS, *TRAINERS]}
