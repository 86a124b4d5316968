"""Write an experiment for a folder of checkpoints: `rpg init my-zoo --checkpoints 'runs/*/*.ckpt'`."""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from rpg.blocks import PARAMS_FILE
from rpg.config.experiment import Tokens
from rpg.config.params import NAME
from rpg.init import rules
from rpg.init.arrays import read_array, with_checkpoints, write_facts, write_rows
from rpg.init.grouping import Grouping, group
from rpg.init.ray_trials import trial_facts
from rpg.init.request import InitRequest, block, matched, run_entries, task_block
from rpg.init.round_trip import round_trip, same_function
from rpg.init.survey import Survey, low_rank, survey
from rpg.init.writing import add_experiment, check_name, make_folder
from rpg.tasks.custom.config import GivenZoo, names_run
from rpg.tasks.custom.facts import Facts, read_facts
from rpg.tasks.custom.runs import expanded
from rpg.tasks.custom.task import Custom
from rpg.tokenizer.copied import Copied
from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError, counted, one_line

# The folder of what `rpg init` writes for an experiment.
FOLDER = Path("zoos")
# The number of states whose runs are told.
MOST_SHOWN = 12
# The number of facts that become conditions; the table keeps all.
MOST_VECTORS = 6


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
    matches = matched(request)
    task_tree = task_block(request, matches)
    task = Custom(task_tree)
    array = read_array(Path(matches[0])) if len(matches) == 1 else None
    rows: list[dict[str, Any]] = []
    if array is not None:
        entries, rows = yield from _unpacked(request, matches[0], array, task, undo)
        grouping = Grouping(None, "each row is a run")
    else:
        entries, are_runs = run_entries(request, matches, task)
        grouping = group(expanded(entries), are_runs)
        if request.state_from:
            grouping = Grouping(request.state_from, f"the text that '{request.state_from}' captures is a run")
    zoo_tree = _zoo(request, entries, grouping.state_from)
    zoo = block(GivenZoo, "zoo", {**zoo_tree, "runs_per_shard": 1})
    for name in request.held_out:
        if not any(names_run(name, run) for run in zoo.names):
            raise UserError(f"--held-out {name}: no such run; known: {', '.join(zoo.names[:20])}")
    found = survey(task, zoo)
    yield from _told(found, grouping.rule)
    if array is None and not request.facts:
        rows = trial_facts(found.checkpoints)
    vectors: list[str] = []
    if facts := (yield from _table(request, rows, undo)):
        zoo_tree["facts"] = str(facts)
        table = read_facts(facts, [f"validation_{task.metric}"])
        _check_facts(found, table)
        vectors = table.names[:MOST_VECTORS]
        yield f"conditions: {', '.join(vectors)}"
    tokens, copied = _tokens(request, found)
    weights = Layout.of(task.own, 16, False, copied).weights
    chosen = rules.ZooFacts(weights, len(zoo.learned), vectors, found.one_start)
    experiment = rules.experiment(task_tree.model_dump(), zoo_tree, tokens, chosen)
    width = experiment["tokens"]["width"]
    length = Layout.of(task.own, width, False, copied).length
    copies = f"; copied: {copied}" if str(copied) else ""
    yield f"tokens: RPG generates {weights:,} numbers of each network, as {length:,} tokens of {width}{copies}"
    trip = round_trip(found, width, bool(tokens.get("canonical")), copied)
    yield f"round trip: as tokens and back, a tensor changes by at most {trip.difference:.1e} of its largest weight"
    yield from same_function(found, trip)
    yield from _states(found)
    runs = f"{len(found.runs)} runs" if len(found.runs) > 1 else "one run"
    return experiment, f"{len(found.checkpoints)} checkpoints of {runs}, by `rpg init`."


def _unpacked(
    request: InitRequest, file: str, array: torch.Tensor, task: Custom, undo: ExitStack
) -> Generator[str, None, tuple[list[str], list[dict[str, Any]]]]:
    """Write the array [networks, weights] in `file` as a file per network; return the pattern and the rows of facts."""
    for option, given in (("state-from", request.state_from), ("weights", request.weights)):
        if given:
            raise UserError(f"--{option}: not for an array, each row of which is a run; leave it out")
    folder = FOLDER / request.name
    make_folder(folder, undo)
    paths = write_rows(Path(file), array, task.network if request.build else None, folder)
    yield f"{file}: {len(array)} networks of {array.shape[1]:,} weights, a file each in {folder}"
    return [f"{folder}/*.safetensors"], with_checkpoints(request.facts, paths) if request.facts else []


def _zoo(request: InitRequest, entries: Sequence[str], state_from: str | None) -> dict[str, Any]:
    """Return the keys of the block `zoo` that the user or the paths determine."""
    keys = {
        "state_from": state_from,
        "held_out": list(request.held_out) or None,
        "facts": str(request.facts) if request.facts else None,
        "weights": request.weights,
    }
    return {"runs": list(entries), **{key: value for key, value in keys.items() if value is not None}}


def _table(request: InitRequest, rows: Sequence[dict[str, Any]], undo: ExitStack) -> Generator[str, None, Path | None]:
    """Write the rows of facts, if any; return the path of the experiment's table, or the user's own, or None."""
    if not rows:
        return request.facts
    folder = FOLDER / request.name
    if not request.facts:
        make_folder(folder, undo)
    write_facts(folder / "facts.csv", rows)
    yield f"facts: {folder / 'facts.csv'} has {len(rows)} rows of {', '.join(list(rows[0])[1:])}"
    return folder / "facts.csv"


def _check_facts(found: Survey, table: Facts) -> None:
    """Raise UserError if a checkpoint has no row, or a row no checkpoint."""
    table.check_runs([*chain.from_iterable(found.zoo.found.values())])
    for name, paths in found.runs.items():
        told = table.of_run(found.zoo.found[name], paths)
        lacking = next((path for path in paths if path not in told and str(path) not in found.copies), None)
        if lacking:
            raise table.lacks(lacking)


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
    size = f"{counted(len(own), 'tensor')} with {counted(numbers, 'number')}"
    yield f"network: {size}, {kinds}; all checkpoints have these tensors"
    if found.unlike:
        one = found.unlike[0]
        is_folder = found.zoo.found[one] == [one] and Path(one).is_dir()
        remedy = f"match its files, as --checkpoints '{one}/*'" if is_folder else "group them by --state-from"
        yield f"look: the checkpoints of {one} differ as much as those of separate runs; if they are, {remedy}"
    if found.one_start and len(counts) > 1:
        yield "look: the runs are alike, as networks that were fine-tuned from one; RPG starts from their mean"
        if max(counts) == 1:
            yield "look: if they are saves of one training instead, group them by --state-from"


def _states(found: Survey) -> Iterator[str]:
    """Yield the runs behind the numbers that `rpg generate --state` takes, and the runs that are held out."""
    learned = found.zoo.learned
    states = ", ".join(f"{state} is {name}" for state, name in enumerate(learned[:MOST_SHOWN]))
    yield f"states: {states}{', and so on' if len(learned) > MOST_SHOWN else ''}"
    if held_out := [name for name in found.runs if found.zoo.is_held_out(name)]:
        yield f"held out: {', '.join(held_out)}"


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


def shown(request: InitRequest) -> None:
    """Print the lines of `init`."""
    for line in init(request):
        print(line if line.startswith("  ") else one_line(line), flush=True)
