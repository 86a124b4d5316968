"""Hostile input of every kind leads to a result or to one line; docs/reliability.md has the number of cases of each."""

import contextlib
import copy
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import (
    ADAPTERS,
    GIVEN,
    MINIATURE,
    PAPER,
    ROOT,
    SCENES,
    SETTINGS,
    TASKS,
    new_model,
    published,
    write_given,
    write_tree,
)
from fuzzing import LEAVES, WAYS_OUT, broken_json, broken_safetensors, broken_yaml, changed, fuzz
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from snakemake.exceptions import WorkflowError

import rpg.pipeline.workflow
from rpg.cli import main
from rpg.config.loading import check_params, load_params
from rpg.config.params import Params
from rpg.evaluation.novelty import NoveltyAnalysis
from rpg.evaluation.score import read_samples
from rpg.evaluation.score_file import score_file
from rpg.paths import RESULTS, Paths, ablation_file, paths_of
from rpg.reports.tables import write_tables
from rpg.tasks.config import Run
from rpg.tasks.custom.config import GivenZoo
from rpg.tasks.custom.task import Custom
from rpg.tokenizer.store import TokenStore
from rpg.tokenizer.tokens import write_tokens
from rpg.training.model_file import load_rpg
from rpg.training.published import import_weights
from rpg.utils.errors import UserError
from rpg.utils.files import file_entry, read_tensors, sealed, sha256, write_sealed
from rpg.zoo.collect import collect_zoo
from rpg.zoo.manifest import read_zoo

ABLATION = {
    "question": "Is it better?",
    "experiment": "mini",
    "seeds": [0, 1],
    "novelty": False,
    "variants": {"plain": {}, "lstm": {"model.backbone.kind": "lstm"}, "untuned": {"tune": None}},
}
TREE: dict = {
    **SETTINGS,
    "run": ["mini", "recurrent"],
    "experiments": {
        "mini": MINIATURE, "tasks": TASKS, "scenes": SCENES, "adapters": ADAPTERS, "given": GIVEN,
        "paper": {**MINIATURE, "model": PAPER},
    },
    "ablations": {"recurrent": ABLATION},
}  # fmt: skip
SHIPPED = (ROOT / "params.yaml").read_text()
SMALL = yaml.safe_dump({**TREE, "experiments": {"mini": MINIATURE, "given": GIVEN}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory for all cases of this file, and `outside` beside it, which stays as it is."""
    here = tmp_path_factory.mktemp("fuzz") / "here"
    here.mkdir()
    (here.parent / "outside").mkdir()
    (here.parent / "outside/w.safetensors").write_bytes(b"secret")
    before = Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)
    assert sorted(here.parent.iterdir()) == [here, here.parent / "outside"]
    assert (here.parent / "outside/w.safetensors").read_bytes() == b"secret"
    assert [path.name for path in (here.parent / "outside").iterdir()] == ["w.safetensors"]
    assert not list(here.rglob("executed"))


def line_of(error: UserError | WorkflowError) -> str:
    """The line of an error that a user is meant to see."""
    line = str(error)
    assert line
    assert line.isprintable()
    return line


def outcome(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None if it raises a UserError, which is one line; it may raise nothing else."""
    try:
        return read()
    except UserError as error:
        line_of(error)
        return None


def refused(*arguments: str) -> None:
    """`rpg *arguments` works in silence, or ends with code 2 and one line on standard error."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = None
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    if code is not None:
        (line,) = err.getvalue().splitlines()
        assert code == 2
        assert line.startswith("rpg: error: ")


def assert_below_results(params: Params) -> None:
    """Every artifact of these params lies below results/, in a folder of its own."""
    trials = [name for ablation in params.ablations for name in params.trials(ablation)]
    files = [ablation_file(name) for name in params.ablations]
    for name in [*params.experiments, *trials]:
        paths, experiment = paths_of(params, name), params.experiment(name)
        files += [
            paths.folder("base"),
            paths.folder("tokens"),
            paths.folder("train"),
            paths.folder("tune"),
            paths.folder("hypernetwork"),
            paths.folder("sample"),
            paths.file("score.scores"),
        ]
        files += [
            paths.file("score.metrics"),
            paths.file("novelty.summary"),
            paths.file("novelty.rows"),
            paths.card,
            paths.kept("score"),
            Paths(name).folder("zoo"),
        ]
        files += [paths.folder("zoo") / shard / "manifest.json" for shard in list(experiment.shards())[:5]]
        files += [paths.folder("base") / f"{seed:04d}" for seed in (experiment.base.seeds if experiment.base else [])]
    for file in files:
        assert Path(os.path.normpath(file)) == file
        assert file.is_relative_to(RESULTS)
        assert len(file.parts) > 2


def read_params(content: bytes, folder: Path) -> Params | None:
    (folder / "params.yaml").write_bytes(content)
    params = outcome(lambda: load_params(Path("params.yaml")))
    if params:
        assert_below_results(params)
    return params


@fuzz(250)
@given(tree=changed(TREE))
def test_params_with_changed_values(tree: dict) -> None:
    params = outcome(lambda: check_params(tree))
    if params:
        assert_below_results(params)


@fuzz(40)
@given(tree=changed(yaml.safe_load(SHIPPED)))
def test_shipped_params_with_changed_values(tree: dict) -> None:
    params = outcome(lambda: check_params(tree))
    if params:
        assert_below_results(params)


@fuzz(150)
@given(content=broken_yaml(SMALL))
def test_params_with_broken_lines(folder: Path, content: bytes) -> None:
    read_params(content, folder)


@fuzz(10)
@given(content=broken_yaml(SHIPPED))
def test_shipped_params_with_broken_lines(folder: Path, content: bytes) -> None:
    read_params(content, folder)


@fuzz(40)
@given(
    content=st.one_of(broken_yaml(SMALL), changed(TREE).map(lambda tree: yaml.dump(tree, allow_unicode=True).encode())),
    verb=st.sampled_from(
        [["tables"], ["zoo", "--experiment", "x"], ["collect", "--experiment", "mini"], ["ablations"]]
    ),
)
def test_params_on_the_command_line(folder: Path, content: bytes, verb: list[str]) -> None:
    (folder / "params.yaml").write_bytes(content)
    refused(*verb)


@fuzz(40)
@given(
    content=broken_yaml(SMALL),
    given_config=st.one_of(st.just({}), st.dictionaries(st.sampled_from(["run", "x"]), LEAVES, max_size=2)),
)
def test_params_in_the_workflow(folder: Path, content: bytes, given_config: dict) -> None:
    (folder / "params.yaml").write_bytes(content)
    rpg.pipeline.workflow._params.cache_clear()
    try:
        rpg.pipeline.workflow.load_config(given_config)
    except WorkflowError as error:
        line_of(error)
    finally:
        rpg.pipeline.workflow._params.cache_clear()


def put(path: Path, content: bytes) -> None:
    """Other bytes for a file, which may be a link to the finished one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(folder: Path, finished: Path, tasks: Path) -> Path:
    """`folder` with the finished miniatures, with and without task codes; what a case changes it puts back."""
    shutil.rmtree("results", ignore_errors=True)
    shutil.copytree(finished / "results/mini", "results/mini")
    shutil.copytree(tasks / "results/tasks", "results/tasks")
    write_tree(folder, mini=MINIATURE, tasks=TASKS)
    for name in ("mini", "tasks"):
        for layer in ("zoo", "samples", "tokens", "base"):
            if Path("results", name, layer).is_dir():
                Path("results", name, layer, "link.safetensors").symlink_to(folder.parent / "outside/w.safetensors")
    return folder


# The files that layers leave for each other; what reads them, for the experiment of that name.
def _of(name: str) -> tuple[Any, Paths]:
    params = load_params(Path("params.yaml"))
    return params.experiment(name), paths_of(params, name)


def collect(name: str) -> None:
    experiment, paths = _of(name)
    collect_zoo(experiment, paths.folder("zoo"), paths.folder("base"))


def tokens(name: str) -> None:
    experiment, paths = _of(name)
    write_tokens(paths.folder("zoo"), experiment.tokens, Path("results/written/tokens"))


def store(name: str) -> None:
    _, paths = _of(name)
    found = TokenStore(paths.folder("tokens"))
    for index in range(len(found)):
        assert found[index].shape == (found.layout.length, found.layout.width)
    found.detokenize(found[0].unsqueeze(0), torch.tensor([0]))
    found.layout.positions(), found.layout.head(), found.layout.padding()
    for checkpoint in [*found.checkpoints, *found.held_out]:
        found.task_set(found.state(checkpoint), checkpoint.code)


def model(name: str) -> None:
    _, paths = _of(name)
    load_rpg(paths.folder("train"), TokenStore(paths.folder("tokens")), torch.device("cpu"))


def samples(name: str) -> None:
    _, paths = _of(name)
    read_samples(paths.folder("sample"), len({checkpoint.seed for checkpoint in read_zoo(paths.folder("zoo"))[0]}))


def compared(name: str) -> None:
    NoveltyAnalysis(*_of(name), None)


def tables(name: str) -> None:
    write_tables(load_params(Path("params.yaml")).covering([name], "run"), RESULTS, Path("results/written"))


READERS: list[tuple[str, str, Callable[[str], None], int]] = [
    ("mini", "zoo/0000-0001/manifest.json", collect, 30),
    ("tasks", "base/manifest.json", collect, 10),
    ("mini", "zoo/checkpoints.json", tokens, 30),
    ("tasks", "zoo/checkpoints.json", samples, 15),
    ("mini", "tokens/layout.json", store, 40),
    ("tasks", "tokens/layout.json", store, 20),
    ("mini", "rpg/config.json", model, 30),
    ("mini", "samples/manifest.json", samples, 30),
    ("tasks", "samples/manifest.json", samples, 20),
    ("mini", "scores.json", tables, 15),
    ("mini", "scores.json", compared, 10),
    ("tasks", "scores.json", compared, 10),
    ("mini", "test.json", tables, 15),
    ("tasks", "test.json", tables, 30),
    ("mini", "novelty.json", tables, 30),
    ("tasks", "novelty.json", tables, 20),
]


@pytest.mark.parametrize(("name", "file", "read", "cases"), READERS)
def test_own_json_files(whole: Path, name: str, file: str, read: Callable[[str], None], cases: int) -> None:
    path = Path("results", name, file)
    scores = Path("results", name, "scores.json")
    before, scored = path.read_bytes(), scores.read_bytes()
    read(name)

    @fuzz(cases)
    @given(content=broken_json(json.loads(before)))
    def attempt(content: bytes) -> None:
        put(path, content)
        if file == "test.json":
            # It is no sealed file: that one vouches for it.
            write_sealed(scores, {**json.loads(scored), "files": [file_entry(path)]})
        outcome(lambda: read(name))

    try:
        attempt()
    finally:
        put(scores, scored)
        put(path, before)


@pytest.mark.parametrize("way", [*WAYS_OUT, "OUTSIDE"])
@pytest.mark.parametrize(
    ("file", "key", "read"),
    [
        ("zoo/0000-0001/manifest.json", "checkpoints", collect),
        ("zoo/checkpoints.json", "checkpoints", tokens),
        ("samples/manifest.json", "samples", compared),
    ],
)
def test_files_that_lead_out_are_not_read_even_if_their_hash_is_right(whole: Path, file, key, read, way: str) -> None:
    path = Path("results/mini", file)
    before = path.read_bytes()
    tree = json.loads(before)
    outside = whole.parent / "outside/w.safetensors"
    way = str(outside) if way == "OUTSIDE" else way
    (path.parent / "link.safetensors").unlink(missing_ok=True)
    (path.parent / "link.safetensors").symlink_to(outside)
    tree[key][0] |= {"file": way, "sha256": sha256(outside)}
    try:
        put(path, json.dumps(sealed(tree)).encode())
        with pytest.raises(UserError) as error:
            read("mini")
        line = line_of(error.value)
        assert str(path.parent.parent if "0000" in file else path.parent) in line
    finally:
        put(path, before)


def mean(state_dict: dict[str, torch.Tensor]) -> None:
    """Read tensors can be computed with."""
    for tensor in state_dict.values():
        tensor.isfinite().all()


def written(content: bytes, suffix: str = "safetensors") -> Path:
    path = Path(f"w.{suffix}")
    path.write_bytes(content)
    return path


def fuzzed_tensors(content: bytes, cases: int, use: Callable[[Path], Any]) -> None:
    """Put broken forms of the safetensors file `content` to `use`."""

    @fuzz(cases)
    @given(broken=broken_safetensors(content))
    def attempt(broken: bytes) -> None:
        outcome(lambda: use(written(broken)))

    use(written(content))
    attempt()


def sampled(name: str = "mini") -> bytes:
    return Path("results", name, "samples/0000.safetensors").read_bytes()


def test_broken_tensors_are_read_or_refused(whole: Path) -> None:
    fuzzed_tensors(sampled(), 150, lambda path: mean(read_tensors(path)))


def test_broken_tensors_are_scored_or_refused(whole: Path) -> None:
    experiment, _ = _of("mini")
    fuzzed_tensors(sampled(), 40, lambda path: score_file(experiment.task, path, None, None))


def test_broken_tensors_become_tokens_or_are_refused(whole: Path) -> None:
    experiment, paths = _of("mini")
    listed = json.loads((paths.folder("zoo") / "checkpoints.json").read_text())
    # Small zoos are quick; the second has what the first is compared with.
    shutil.rmtree("results/written", ignore_errors=True)
    zoo = Path("results/written/zoo")
    shutil.copytree(paths.folder("zoo") / "0000-0001", zoo / "0000-0001", symlinks=True)
    entries = listed["checkpoints"][:2]

    def tokenize(path: Path) -> None:
        entries[0] |= {"file": "w.safetensors", "sha256": sha256(path)}
        shutil.copy(path, zoo / "w.safetensors")
        write_sealed(zoo / "checkpoints.json", {**listed, "checkpoints": entries})
        write_tokens(zoo, experiment.tokens, Path("results/written/tokens"))

    fuzzed_tensors((paths.folder("zoo") / entries[0]["file"]).read_bytes(), 40, tokenize)


def test_broken_tensors_are_imported_or_refused(whole: Path) -> None:

    write_tree(whole, mini={**MINIATURE, "model": PAPER, "diffusion": {"target": "epsilon"}})
    experiment, paths = _of("mini")
    try:
        content = save(published(new_model(whole)))
        fuzzed_tensors(
            content,
            40,
            lambda path: import_weights(
                experiment,
                path,
                paths.folder("tokens"),
                Path("results/written/rpg"),
                Path("results/written/seconds.json"),
            ),
        )
    finally:
        write_tree(whole, mini=MINIATURE, tasks=TASKS)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Path:
    """What a custom zoo reads, in `folder`."""
    write_given(folder)
    return folder


def custom(theirs: Path) -> Custom:
    return Custom(check_params({**TREE, "run": ["given"]}).experiment("given").task)


def test_broken_tensors_in_a_zoo_of_ones_own(theirs: Path) -> None:
    task, run = custom(theirs), Run(seed=0, code=None, held_out=False)
    zoo = GivenZoo(runs=["w.safetensors"], runs_per_shard=1)
    fuzzed_tensors(save(task.own), 60, lambda path: task.train(zoo, [run], [None], lambda *_: None))


@pytest.mark.parametrize("numbers", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["bn1.running_var", "fc.bias", "conv1.0.weight"])
def test_novelty_of_samples_without_finite_weights_is_one_line(whole: Path, name: str, numbers: float) -> None:

    experiment, paths = _of("mini")
    manifest, sample = paths.folder("sample") / "manifest.json", paths.folder("sample") / "0001.safetensors"
    before, tree = sample.read_bytes(), json.loads(manifest.read_text())
    broken = copy.deepcopy(tree)
    try:
        weights = read_tensors(sample)
        weights[name].view(-1)[-1] = numbers
        save_file(weights, sample)
        broken["samples"][1] |= file_entry(sample)
        write_sealed(manifest, broken)
        with pytest.raises(UserError, match=rf"0001.safetensors: tensor '{name}' holds .*rpg sample") as error:
            NoveltyAnalysis(experiment, paths, None)
        line_of(error.value)
    finally:
        put(sample, before)
        write_sealed(manifest, tree)


class Code:
    """What a hostile pickle does when it is opened."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> tuple:
        return {
            "touch": (Path.touch, (Path("executed"),)),
            "system": (os.system, ("touch executed",)),
            "eval": (eval, ("open('executed', 'w').close()",)),
            "exec": (exec, ("open('executed', 'w').close()",)),
        }[self.way]


def _nested(depth: int, value: Any) -> Any:
    for level in range(depth):
        value = {"state_dict": value} if level % 2 else [value]
    return value


# The pickles are of all protocols.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@fuzz(60)
@given(
    way=st.sampled_from(["touch", "system", "eval", "exec"]),
    depth=st.integers(0, 6),
    form=st.sampled_from(["zip", "legacy", "pickle", "zip in zip", "appended"]),
    protocol=st.integers(0, 5),
    suffix=st.sampled_from(["pth", "pt", "bin"]),
)
def test_code_in_pickles_never_runs(folder: Path, way: str, depth: int, form: str, protocol: int, suffix: str) -> None:
    content = {"weight": torch.zeros(2), "x": _nested(depth, Code(way))}
    file = io.BytesIO()
    if form == "pickle":
        pickle.dump(content, file, protocol=protocol)
    elif form == "appended":
        torch.save({"weight": torch.zeros(2)}, file)
        file.write(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "legacy")
    if form == "zip in zip":
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Code(way), protocol=protocol))
            archive.writestr("archive/data/0", file.getvalue())
            archive.writestr("archive/version", "3\n")
        file = outer
    path = written(file.getvalue(), suffix)
    if form == "appended":
        # What follows a whole file is never looked at.
        outcome(lambda: read_tensors(path))
    else:
        with pytest.raises(UserError) as error:
            read_tensors(path)
        line_of(error.value)
    assert not Path("executed").exists()


# torch warns of what is made here on purpose: sparse tensors, and storages of the old kind.
@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)", "ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_tensors_that_are_no_plain_numbers_are_refused(folder: Path, suffix: str) -> None:
    for tensor in (
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, 2).to_sparse_csr(),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        torch.zeros(1).expand(10**12),
    ):
        path = Path(f"w.{suffix}")
        torch.save({"a": tensor}, path)
        with pytest.raises(UserError) as error:
            read_tensors(path)
        line_of(error.value)


NAMES = ("a b", 'a"b', "a'b", "a\nb", "-a", "ä\u2028", "$(touch executed)", "{experiment}", "a;b", "..", "%", "\\")


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_weights_to_score(whole: Path, name: str) -> None:
    path = Path("odd") / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sampled())
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["score", "--experiment", "mini", f"--weights={path}"])
    assert "top1" in out.getvalue()
    (line,) = out.getvalue().splitlines()
    assert line.isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_networks_to_write(whole: Path, name: str) -> None:
    out = io.StringIO()
    path = Path("odd") / f"{name}.safetensors"
    with contextlib.redirect_stdout(out):
        main(["generate", "--experiment", "mini", f"--out={path}", "--state=0"])
    assert path.is_file()
    (line,) = out.getvalue().splitlines()
    assert line.isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_runs_and_data(theirs: Path, name: str) -> None:
    folder = Path("odd runs") / name
    if name != "..":
        shutil.copytree("zoo/a", folder, dirs_exist_ok=True)
    task = custom(theirs)
    if name != "..":
        assert task.checkpoints(folder)[-1] == folder / "epoch-10.pth"
    write_tree(theirs, mini={**MINIATURE, "task": {**MINIATURE["task"], "data": "cifar10"}})
    tree = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**tree, "data_root": f"odd runs/{name}"}))
    refused("zoo", "--experiment", "mini")
