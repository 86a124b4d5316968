"""Write an experiment for a folder of checkpoints: `rpg init my-zoo --checkpoints 'runs/*/*.ckpt'`."""

import math
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from rpg.blocks import PARAMS_FILE
from rpg.config.experiment import Tokens
from rpg.config.params import NAME, message_of
from rpg.init import rules
from rpg.init.arrays import read_array, with_checkpoints, write_facts, write_rows
from rpg.init.grouping import group
from rpg.init.ray_trials import trial_facts
from rpg.init.survey import RoundTrip, Survey, low_rank, outputs, round_trip, survey
from rpg.init.writing import add_experiment, check_name, make_folder
from rpg.tasks.adapters import CONFIG
from rpg.tasks.custom.config import CustomTask, GivenZoo, names_run
from rpg.tasks.custom.facts import Facts, read_facts
from rpg.tasks.custom.reading import INDEX, SUFFIXES, check_distributed, is_checkpoint
from rpg.tasks.custom.runs import expanded
from rpg.tasks.custom.task import Custom
from rpg.tokenizer.copied import Copied
from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError, one_line
from rpg.utils.metric import PERCENT

# The folder of what `rpg init` writes for an experiment.
FOLDER = Path("zoos")
# The number of facts that become conditions; the table keeps all.
MOST_VECTORS = 6


@dataclass(frozen=True)
class InitRequest:
    """What the user says about a zoo; the names are those of the options."""

    name: str
    checkpoints: Sequence[str]
    build: str | None = None
    score: str | None = None
    metric: str | None = None
    unit: str = PERCENT.unit
    lower_is_better: bool = False
    state_from: str | None = None
    held_out: Sequence[str] = ()
    facts: Path | None = None
    weights: str | None = None
    only: Sequence[str] = ()
    # The shell's further matches of a pattern without quotes.
    further: Sequence[str] = ()


def init(request: InitRequest) -> Iterator[str]:
    """Look at the checkpoints, add the experiment to params.yaml, and yield lines that tell what was found and done.

    Nothing stays written unless the checkpoints go through the tokens and back. Raises UserError with a remedy if
    params.yaml has the experiment already, or if the checkpoints can't be a zoo.
    """
    if request.further:
        raise UserError("--checkpoints: the shell has put matches in a pattern's place; quote it, as 'runs/*/*.ckpt'")
    if not re.fullmatch(NAME, request.name):
        raise UserError(f"{request.name}: a name has small letters, digits, - and _ only")
    check_name(request.name)
    with ExitStack() as undo:
        experiment, comment = yield from _experiment(request, undo)
        lines = add_experiment(request.name, experiment, comment)
        undo.pop_all()
    yield f"{PARAMS_FILE}: added"
    yield from lines
    yield f"next: snakemake --cores all results/{request.name}/novelty.json"
    yield f"then: rpg generate --experiment {request.name} --out {request.name}.safetensors"


def _experiment(request: InitRequest, undo: ExitStack) -> Generator[str, None, tuple[dict[str, Any], str]]:
    """Look at the checkpoints, yield lines on them, and return the experiment and a comment on it.

    `undo` removes the files that this writes, unless the caller takes its callbacks away.
    """
    matches = _matches(request)
    task_block = _task(request, matches)
    task = Custom(task_block)
    facts, rows = request.facts, list[dict[str, Any]]()
    array = read_array(Path(matches[0])) if len(matches) == 1 else None
    if array is not None:
        for option, given in (("state-from", request.state_from), ("weights", request.weights)):
            if given:
                raise UserError(f"--{option}: not for an array, each row of which is a run; leave it out")
        folder = FOLDER / request.name
        make_folder(folder, undo)
        paths = write_rows(Path(matches[0]), array, task.network if request.build else None, folder)
        yield f"{matches[0]}: {len(array)} networks of {array.shape[1]:,} weights, a file each in {folder}"
        entries, state_from, rule = [f"{folder}/*.safetensors"], None, "each row is a run"
        rows = with_checkpoints(facts, paths) if facts else []
    else:
        entries, are_runs = _entries(request, matches, task)
        grouping = group(expanded(entries), are_runs)
        state_from, rule = grouping.state_from, grouping.rule
        if request.state_from:
            state_from, rule = request.state_from, f"the text that '{request.state_from}' captures is a run"
    zoo_tree: dict[str, Any] = {"runs": entries}
    zoo_tree |= {"state_from": state_from} if state_from else {}
    zoo_tree |= {"held_out": list(request.held_out)} if request.held_out else {}
    zoo_tree |= {"weights": request.weights} if request.weights else {}
    given_facts = {"facts": str(facts)} if facts else {}
    zoo = _block(GivenZoo, "zoo", {**zoo_tree, **given_facts, "runs_per_shard": 1})
    for name in request.held_out:
        if not any(names_run(name, run) for run in zoo.names):
            raise UserError(f"--held-out {name}: no such run; known: {', '.join(zoo.names[:20])}")
    found = survey(task, zoo)
    yield from _told(found, rule)
    if array is None and not facts:
        rows = trial_facts(found.checkpoints)
    if rows:
        if not facts:
            make_folder(FOLDER / request.name, undo)
        facts = FOLDER / request.name / "facts.csv"
        write_facts(facts, rows)
        yield f"facts: {facts} has {len(rows)} rows of {', '.join(list(rows[0])[1:])}"
    vectors: list[str] = []
    if facts:
        zoo_tree["facts"] = str(facts)
        table = read_facts(facts, [f"validation_{task.metric}"])
        _check_facts(found, table)
        vectors = table.names[:MOST_VECTORS]
        yield f"conditions: {', '.join(vectors)}"
    tokens, copied = _tokens(request, found)
    weights = _weights(found, copied)
    chosen = rules.ZooFacts(weights, len(zoo.names), vectors, found.one_start)
    experiment = rules.experiment(task_block.model_dump(), zoo_tree, tokens, chosen)
    width = experiment["tokens"]["width"]
    yield (
        f"tokens: RPG generates {weights:,} numbers of each network, as {math.ceil(weights / width):,} tokens or a few"
        f" more, of {width}" + (f"; copied: {copied}" if str(copied) else "")
    )
    trip = round_trip(found, width, bool(tokens.get("canonical")), copied)
    yield f"round trip: as tokens and back, a tensor changes by at most {trip.difference:.1e} of its largest weight"
    yield from _same_function(found, trip, request)
    runs = f"{len(found.runs)} runs" if len(found.runs) > 1 else "one run"
    return experiment, f"{len(found.checkpoints)} checkpoints of {runs}, by `rpg init`."


def _block(kind: type[Any], name: str, tree: dict[str, Any]) -> Any:
    """Return a block of the experiment; UserError with the first fault."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, (name, *fault["loc"])))
        raise UserError(f"{where}: {message_of(fault)}") from error


def _check_facts(found: Survey, table: Facts) -> None:
    """Raise UserError if a checkpoint has no row, or a row no checkpoint."""
    table.check_runs([*chain.from_iterable(found.zoo.found.values())])
    for name, paths in found.runs.items():
        told = table.of_run(found.zoo.found[name], paths)
        lacking = next((path for path in paths if path not in told and str(path) not in found.copies), None)
        if lacking:
            raise table.lacks(lacking)


def _matches(request: InitRequest) -> list[str]:
    matches: list[str] = []
    for pattern in request.checkpoints:
        own = [path for path in expanded([pattern]) if Path(path).exists()]
        if not own:
            raise UserError(f"--checkpoints {pattern}: nothing matches; quote the pattern, or correct it")
        matches += [path for path in own if path not in matches]
    return matches


def _task(request: InitRequest, matches: Sequence[str]) -> CustomTask:
    """Return the block `task`; without --build, an adapter's folder stands for its settings."""
    tree: dict[str, Any] = {"kind": "custom"}
    if request.build:
        tree["build"] = request.build
    elif adapter := next((folder for path in matches for folder in _adapter_folders(Path(path))), None):
        tree["adapter"] = str(adapter)
    if request.score and not request.build:
        raise UserError("--score: needs the network; add --build")
    of_score = (request.metric, request.unit != PERCENT.unit, request.lower_is_better)
    if request.score:
        tree |= {"score": request.score, "metric": request.metric or request.score.partition(":")[2]}
        tree |= {"unit": request.unit, "lower_is_better": request.lower_is_better}
    elif any(of_score):
        option = ("metric", "unit", "lower-is-better")[list(map(bool, of_score)).index(True)]
        raise UserError(f"--{option}: belongs to a score; add --score")
    return _block(CustomTask, "task", tree)


def _adapter_folders(path: Path) -> list[Path]:
    """Return the folders of adapters in a match, at most two folders below it."""
    if path.is_file():
        return [path.parent] if (path.parent / CONFIG).is_file() else []
    return [config.parent for depth in ("", "*/", "*/*/") for config in sorted(path.glob(f"{depth}{CONFIG}"))]


def _entries(request: InitRequest, matches: Sequence[str], task: Custom) -> tuple[list[str], bool]:
    """Return the entries of `zoo.runs`, and whether they are folders of several checkpoints each.

    Raises UserError if checkpoints and folders of checkpoints are mixed, or if a match is neither.
    """
    # torch.distributed.checkpoint names a process's file so; a pattern leaves out the index beside it.
    parts = (Path(path).parent if path.endswith(".distcp") else Path(path) for path in matches)
    for part in dict.fromkeys(parts):
        if part.is_dir():
            check_distributed(part)
    if any(_stands_for_folder(Path(path), task) for path in matches):
        # The weights of transformers and peft need the files beside them.
        return list(dict.fromkeys(str(Path(path).parent) for path in matches)), False
    if odd := next((path for path in matches if Path(path).is_file() and not is_checkpoint(Path(path))), None):
        raise UserError(
            f"--checkpoints: {odd} is no checkpoint ({' '.join(SUFFIXES)}); give a pattern that leaves it out"
        )
    several = {path: len(task.checkpoints(Path(path))) > 1 for path in matches}
    if len(set(several.values())) > 1 and not request.state_from:
        folder = next(path for path, is_run in several.items() if is_run)
        other = next(path for path, is_run in several.items() if not is_run)
        raise UserError(f"--checkpoints: {folder} has several checkpoints, but {other} is one; match either kind alone")
    return list(request.checkpoints), next(iter(several.values())) and not request.state_from


def _stands_for_folder(path: Path, task: Custom) -> bool:
    return path.is_file() and (path.name.endswith(INDEX) or (task.adapters and (path.parent / CONFIG).is_file()))


def _told(found: Survey, rule: str) -> Iterator[str]:
    """Yield what was found in the checkpoints."""
    counts = [len(paths) for paths in found.runs.values()]
    each = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    runs = f", {each} of each of {len(counts)} runs" if len(counts) > 1 else " of one run"
    yield f"found: {sum(counts)} checkpoints{runs}; {rule}"
    yield f"written by: {found.maker}"
    if found.notes:
        yield f"read: {'; '.join(found.notes)}"
    if len(found.read) < sum(counts) - len(found.copies):
        yield f"read: {len(found.read)} of them, because the zoo is large; `rpg zoo` reads all"
    for copy, name in found.copies.items():
        yield f"left out: {copy}, the same as {name}"
    own = found.task.own
    numbers = sum(tensor.numel() for tensor in own.values())
    kinds = ", ".join(sorted(found.dtypes))
    yield f"network: {len(own)} tensors with {numbers:,} numbers, {kinds}; all checkpoints have these tensors"
    if found.unlike:
        one = found.unlike[0]
        is_folder = found.zoo.found[one] == [one] and Path(one).is_dir()
        remedy = f"match its files, as --checkpoints '{one}/*'" if is_folder else "group them by --state-from"
        yield f"look: the checkpoints of {one} differ as much as those of separate runs; if they are, {remedy}"
    if found.one_start and len(counts) > 1:
        flat = max(counts) == 1
        yield (
            "look: the runs are alike"
            + ("; if they are saves of one training, group them by --state-from" if flat else "")
            + "; RPG starts from their mean, as for networks fine-tuned from one"
        )


def _tokens(request: InitRequest, found: Survey) -> tuple[dict[str, Any], Copied]:
    """Return the block `tokens` without its width, and the tensors that samples copy."""
    tree: dict[str, Any] = {"only": list(request.only)} if request.only else {}
    config = found.task.adapter_config()
    if config is not None:
        canonical = low_rank(found.task.own)
        try:
            Tokens(width=4, canonical=canonical).check_form(config)
        except UserError:
            canonical = False
        tree["canonical"] = canonical
    return tree, found.copied(bool(tree.get("canonical")), request.only or None)


def _weights(found: Survey, copied: Copied) -> int:
    layout = Layout.of(found.task.own, 16, False, copied)
    return sum(math.prod(tensor.shape) for tensor in layout.tokenized)


def _same_function(found: Survey, trip: RoundTrip, request: InitRequest) -> Iterator[str]:
    """Yield a line about the network's score or outputs before and after the way through the tokens."""
    task = found.task
    if not request.build:
        yield "round trip: give --build to compare the networks' outputs"
    elif request.score:
        kind = task.params.metric_kind
        before, after = (task.score(state_dict, "validation") for state_dict in (trip.before, trip.after))
        yield f"round trip: {task.metric} {kind.with_unit(before)} before, {kind.with_unit(after)} after"
    else:
        yield _compared(found, trip)


def _compared(found: Survey, trip: RoundTrip) -> str:
    for inputs in _inputs(found.task.network):
        try:
            before, after = (outputs(found, state_dict, inputs) for state_dict in (trip.before, trip.after))
        except Exception:
            continue
        floats = [(one.double(), other.double()) for one, other in zip(before, after, strict=True)]
        largest = max((float(one.abs().max()) for one, _ in floats), default=0.0) or 1.0
        difference = max((float((one - other).abs().max()) for one, other in floats), default=0.0)
        share = difference / largest
        return f"round trip: outputs for inputs {list(inputs.shape)} change by at most {share:.1e} of the largest"
    return "round trip: outputs not compared, because no guess of the inputs fits; give --score"


def _inputs(network: nn.Module) -> Iterator[torch.Tensor]:
    """Yield guesses of inputs that fit the first module with weights."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            yield torch.randint(module.num_embeddings, (2, 8), generator=draw)
        elif isinstance(module, nn.modules.conv._ConvNd):
            for side in (32, 224, 64, 28, 96, 16):
                sides = [side] * len(module.kernel_size)
                yield torch.randn(2, module.in_channels, *sides, generator=draw)
        elif isinstance(module, nn.Linear):
            yield torch.randn(2, module.in_features, generator=draw)
            yield torch.randn(2, 8, module.in_features, generator=draw)
        else:
            continue
        return


def shown(request: InitRequest) -> None:
    """Print the lines of `init`."""
    for line in init(request):
        print(line if line.startswith("  ") else one_line(line), flush=True)
