"""Write a case's zoo into zoo/<run>, with the functions of the library that the case is about.

bitsandbytes is not among the packages of requirements/dev.txt. Its cases have the same names of tensors.
"""

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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


def flat(zoo: Zoo) -> None:
    """Write all saves into one folder, with the seed and the epoch in the name."""
    for run, save, network in zoo.saves():
        torch.save(network.state_dict(), zoo.path(f"seed-{run}_epoch={save}.pth"))


def numbered(zoo: Zoo) -> None:
    """Write all saves into one folder, with names that do not say what counts the saves."""
    for run, save, network in zoo.saves():
        torch.save(network.state_dict(), zoo.path(f"net_{run}_{save}.pth"))


def three_runs(zoo: Zoo) -> None:
    for run, save, network in zoo.saves("abc"):
        torch.save(network.state_dict(), zoo.path(run, f"epoch-{save}.pth"))


def one_array(suffix: str) -> Writer:
    """Return a writer of one array with a row per network: the last saves of six runs."""

    def write(zoo: Zoo) -> None:
        rows = {
            run: nn.utils.parameters_to_vector(network.parameters()).detach().numpy()
            for run, _, network in zoo.saves(SEEDS)
        }
        array = np.stack(list(rows.values()))
        path = zoo.path(f"weights{suffix}")
        np.save(path, array) if suffix == ".npy" else np.savez(path, weights=array)
        zoo.scores = zoo.scores[2::3]

    return write


def ray(zoo: Zoo) -> None:
    """Write by Ray Tune: zoo/tune/<trial>/checkpoint_000000/model.pt, with params.json and progress.csv."""
    import ray as library
    from ray import tune

    saves: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for run, _, network in zoo.saves():
        saves.setdefault(run, []).append((copy.deepcopy(network.state_dict()), zoo.scores[-1]))

    def report(config: Mapping[str, Any]) -> None:
        for state_dict, score in saves[config["start"]]:
            with tempfile.TemporaryDirectory() as made:
                torch.save(state_dict, Path(made, "model.pt"))
                tune.report({"score": score}, checkpoint=tune.Checkpoint.from_directory(made))

    library.init(num_cpus=1, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        settings = tune.RunConfig(name="tune", storage_path=str(zoo.path("x").parent.resolve()), verbose=0)
        space = {"start": tune.grid_search(list(RUNS)), "optimizer": {"rate": 0.02}}
        tune.Tuner(report, param_space=space, run_config=settings).fit()
    finally:
        library.shutdown()


def timm_saver(zoo: Zoo) -> None:
    """Write by timm's CheckpointSaver, with the options of the command and an average of the weights."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    for run, save, network in zoo.saves():
        folder = zoo.path(run, "x").parent
        optimizer, average = torch.optim.AdamW(network.parameters()), ModelEmaV3(network)
        if save == 1:
            args = argparse.Namespace(model="mlp", lr=0.02)
            saver = CheckpointSaver(network, optimizer, args, average, checkpoint_dir=folder, recovery_dir=folder)
        saver.model_ema = average
        saver.save_checkpoint(save, float(save))


def mmengine_best(zoo: Zoo) -> None:
    """Write state dicts by mmengine, and a copy of the second as best_accuracy_epoch_2.pth."""
    from mmengine.runner import save_checkpoint

    for run, save, network in zoo.saves():
        save_checkpoint(network.state_dict(), str(zoo.path(run, f"epoch_{save}.pth")))
        if save == 2:
            save_checkpoint(network.state_dict(), str(zoo.path(run, "best_accuracy_epoch_2.pth")))


def mmengine_whole(zoo: Zoo) -> None:
    """Write by mmengine the dict that its Runner saves, with the log of numbers."""
    from mmengine.logging import MessageHub
    from mmengine.runner import save_checkpoint

    for run, save, network in zoo.saves():
        hub = MessageHub.get_instance(f"{run}-{save}")
        hub.update_scalar("train/loss", 0.5)
        whole = {"meta": {"epoch": save, "iter": save}, "state_dict": network.state_dict()}
        whole["message_hub"] = hub.state_dict()
        save_checkpoint(whole, str(zoo.path(run, f"epoch_{save}.pth")))


def lightning(*others: str) -> Writer:
    """Return a writer by Lightning, whose module has the network as the attribute "model".

    `others` are attributes with further networks like it. The loss has a tensor, too.
    """

    def write(zoo: Zoo) -> None:
        import pytorch_lightning as pl

        class Module(pl.LightningModule):
            def __init__(self, rate: float) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.loss = nn.CrossEntropyLoss(torch.ones(10))

            def training_step(self, batch: Any, index: int) -> Tensor:
                logits: Tensor = zoo.mine["logits"](self.model, batch[0])
                return logits.sum()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), self.hparams["rate"])

        options: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        for run, save, network in zoo.saves():
            # A step with the learning rate 0 leaves the network as it is.
            module: Any = Module(0.0)
            module.model = network
            for other in others:
                halved = copy.deepcopy(network)
                halved.load_state_dict({name: x / 2 for name, x in network.state_dict().items()})
                setattr(module, other, halved)
            inputs, targets = (values[:64] for values in zoo.mine["points"]("train"))
            loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=64)
            trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **options)
            with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
                trainer.fit(module, loader)
            trainer.save_checkpoint(zoo.path(run, f"epoch={save}-step={save}.ckpt"))

    return write


def distributed(converted: bool) -> Writer:
    """Return a writer of folders of torch.distributed.checkpoint; `converted` ones become files by torch's command."""

    def write(zoo: Zoo) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        for run, save, network in zoo.saves():
            folder = zoo.path(run, f"step-{save}")
            checkpoint.save({"model": network.state_dict(), "step": save}, checkpoint_id=folder, no_dist=True)
            if converted:
                dcp_to_torch_save(folder, folder.with_name(f"{folder.name}.pth"))

    return write


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


def two_networks(network: nn.Module) -> dict[str, Any]:
    """Return a student and its teacher, which have the same tensors."""
    return {"student": network.state_dict(), "teacher": {name: x / 2 for name, x in network.state_dict().items()}}


def without_counters(network: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def data_parallel(network: nn.Module) -> Mapping[str, Any]:
    return nn.DataParallel(network).state_dict()


def compiled(network: nn.Module) -> Mapping[str, Any]:
    made: Any = torch.compile(network)
    return dict(made.state_dict())


def compiled_inside(network: nn.Module) -> Mapping[str, Any]:
    """Compile the modules of a copy one by one."""
    made: Any = copy.deepcopy(network)
    for name, module in list(made.named_children()):
        setattr(made, name, torch.compile(module))
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
