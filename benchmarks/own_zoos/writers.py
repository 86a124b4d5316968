"""Write a case's zoo into zoo/<run>, with the functions of the library that the case is about.

bitsandbytes, Lightning and Ray Tune are not among the packages of requirements/dev.txt. Their cases have the same names
of files and tensors.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.own_zoos.zoo import RUNS, STEPS, Zoo, save_after

Writer = Callable[[Zoo], None]
Change = Callable[[nn.Module], Any]
# The runs of a folder with one file per run.
SEEDS = "abcdef"


def state(network: nn.Module) -> Mapping[str, Any]:
    return network.state_dict()


def states(change: Change = state, name: str = "epoch-{}.pth") -> Writer:
    """Return a writer of one file per save, which holds what `change` makes of the network."""

    def write(zoo: Zoo) -> None:
        for run, save, network in zoo.saves():
            torch.save(change(network), zoo.path(run, name.format(save)))

    return write


def pretrained(zoo: Zoo, runs: Iterable[str] = RUNS) -> None:
    """Write each save as a folder of transformers, or of peft, whose method has the same name."""
    for run, save, network in zoo.saves(runs):
        network.save_pretrained(zoo.path(run, f"checkpoint-{save}"))  # type: ignore[operator]


def sharded(zoo: Zoo) -> None:
    """Write each save as a folder of transformers with several files of weights."""
    for run, save, network in zoo.saves():
        network.save_pretrained(zoo.path(run, f"checkpoint-{save}"), max_shard_size="4KB")  # type: ignore[operator]


def accelerate_state(zoo: Zoo) -> None:
    """Write by accelerate's save_state, which adds the states of the optimizer, the data and the random numbers."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    for run, save, network in zoo.saves():
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
        loader: Any = torch.utils.data.DataLoader(range(8), shuffle=True)  # type: ignore[arg-type]
        accelerator.prepare(network, torch.optim.AdamW(network.parameters()), loader)
        accelerator.save_state(str(zoo.path(run, f"checkpoint_{save}")))


def adapter_files(zoo: Zoo) -> None:
    """Write adapters without adapter_config.json."""
    pretrained(zoo)
    for path in zoo.folder.glob("zoo/*/*/adapter_config.json"):
        path.unlink()


def mixed_ranks(zoo: Zoo) -> None:
    """Write the second run with another rank, r=8."""
    from peft import LoraConfig, get_peft_model

    adapt = zoo.mine["adapt"]
    pretrained(zoo, "a")
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["0", "2"])
    zoo.mine["adapt"] = lambda network: get_peft_model(network, config)
    pretrained(zoo, "b")
    zoo.mine["adapt"] = adapt


def trainer(final: bool) -> Writer:
    """Return a writer that trains by transformers' Trainer, which with `final` calls save_model() at the end."""

    def write(zoo: Zoo) -> None:
        for run in RUNS:
            made = run_trainer(zoo, run)
            if final:
                made.save_model()

    return write


def run_trainer(zoo: Zoo, run: str) -> Any:
    """Train a run by transformers' Trainer, which writes checkpoint-N into zoo/<run>; return the Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Saves(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **facts: Any) -> None:
            control.should_save = save_after(state.global_step) > 0

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **facts: Any) -> None:
            zoo.note(model.eval())
            model.train()

    network = zoo.start(run)
    inputs, targets = zoo.mine["points"]("train")
    chains = torch.cat([inputs, targets[:, -1:]], 1)
    arguments = TrainingArguments(
        output_dir=str(zoo.path(run)),
        max_steps=STEPS,
        per_device_train_batch_size=64,
        learning_rate=0.02,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    made = Trainer(
        network, arguments, train_dataset=[{"input_ids": x, "labels": x} for x in chains], callbacks=[Saves()]
    )
    made.train()
    return made


def pruned(zoo: Zoo) -> None:
    """Prune 80 % of a network's first matrix by torch's prune after half of the training."""
    from torch.nn.utils import prune

    def halfway(network: Any) -> None:
        prune.l1_unstructured(network[0], "weight", amount=0.8)

    for run, save, network in zoo.saves(halfway=halfway):
        torch.save(network.state_dict(), zoo.path(run, f"epoch-{save}.pth"))


def seeds(zoo: Zoo) -> None:
    """Write the last save of six runs into one folder."""
    for run, _, network in zoo.saves(SEEDS):
        torch.save(network.state_dict(), zoo.path(f"seed-{run}.pth"))
    # Earlier saves of a run are overwritten.
    zoo.scores = zoo.scores[2::3]


def ray(name: str = "model.pt") -> Writer:
    """Return a writer of Ray Tune's folders: zoo/tune/<trial>/checkpoint_000000/<file>."""

    def write(zoo: Zoo) -> None:
        for run, save, network in zoo.saves():
            torch.save(network.state_dict(), file := zoo.path("tune", run, f"checkpoint_{save - 1:06d}", name))
            (file.parent.parent / "params.json").write_text("{}\n")
            (file.parent.parent / "result.json").write_text("{}\n")

    return write


def timm_saver(zoo: Zoo) -> None:
    """Write by timm's CheckpointSaver, with an average of the weights."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    for run, save, network in zoo.saves():
        folder = zoo.path(run, "x").parent
        optimizer, average = torch.optim.AdamW(network.parameters()), ModelEmaV3(network)
        if save == 1:
            saver = CheckpointSaver(network, optimizer, None, average, checkpoint_dir=folder, recovery_dir=folder)
        saver.save_checkpoint(save, float(save))


def mmengine_best(zoo: Zoo) -> None:
    """Write state dicts by mmengine, and a copy of the second as best_accuracy_epoch_2.pth."""
    from mmengine.runner import save_checkpoint

    for run, save, network in zoo.saves():
        save_checkpoint(network.state_dict(), str(zoo.path(run, f"epoch_{save}.pth")))
        if save == 2:
            save_checkpoint(network.state_dict(), str(zoo.path(run, "best_accuracy_epoch_2.pth")))


def mmengine_whole(zoo: Zoo) -> None:
    """Write by mmengine the dict that its Runner saves."""
    from mmengine.runner import save_checkpoint

    for run, save, network in zoo.saves():
        whole = {"meta": {"epoch": save, "iter": save}, "state_dict": network.state_dict(), "message_hub": {}}
        save_checkpoint(whole, str(zoo.path(run, f"epoch_{save}.pth")))


def lightning(zoo: Zoo) -> None:
    """Write the keys of Lightning's checkpoints; the names of the tensors begin with the attribute "model"."""
    for run, save, network in zoo.saves():
        named = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
        whole = {"epoch": save, "global_step": save, "pytorch-lightning_version": "2.6.6", "state_dict": named}
        torch.save({**whole, "loops": {}, "callbacks": {}}, zoo.path(run, f"epoch={save}-step={save}.ckpt"))


def dtensors(zoo: Zoo) -> None:
    """Write the state dicts of a network whose tensors are sharded over one process."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    states(lambda network: {name: distribute_tensor(x, mesh) for name, x in network.state_dict().items()})(zoo)


def training_state(network: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(network.parameters())
    return {"epoch": 1, "model_state_dict": network.state_dict(), "optimizer_state_dict": optimizer.state_dict()}


def without_counters(network: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def data_parallel(network: nn.Module) -> Mapping[str, Any]:
    return nn.DataParallel(network).state_dict()


def compiled(network: nn.Module) -> Mapping[str, Any]:
    made: Any = torch.compile(network)
    return dict(made.state_dict())


def averaged(network: nn.Module) -> Mapping[str, Any]:
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def torchao_int8(network: nn.Module) -> Mapping[str, Any]:
    """Quantize a copy of the network by torchao."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = copy.deepcopy(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_(small, Int8WeightOnlyConfig())
    return small.state_dict()


def eight_bits(network: nn.Module) -> dict[str, Tensor]:
    """Return the keys of bitsandbytes' Linear8bitLt: whole numbers, and the largest size in each row."""
    made = dict(network.state_dict())
    for name in [name for name in made if name.endswith("weight")]:
        largest = made[name].abs().amax(1)
        made[name] = (made[name] / largest[:, None] * 127).round().to(torch.int8)
        made |= {name.replace("weight", "SCB"): largest, f"{name}_format": torch.tensor(0, dtype=torch.uint8)}
    return made


def four_bits(network: nn.Module) -> dict[str, Tensor]:
    """Return the keys of bitsandbytes' Linear4bit: two numbers a byte, their scales and the levels."""
    made = dict(network.state_dict())
    for name in [name for name in made if name.endswith("weight")]:
        scales = made[name].flatten().view(-1, 60 if made[name].numel() % 64 else 64).abs().amax(1)
        made[name] = torch.zeros(made[name].numel() // 2, 1, dtype=torch.uint8)
        made |= {f"{name}.absmax": scales, f"{name}.quant_map": torch.linspace(-1, 1, 16)}
        made[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(8, dtype=torch.uint8)
    return made
