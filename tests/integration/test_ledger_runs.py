"""The two tools on one checkout: `dvc repro`, Snakemake, push and pull."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from checkouts import (
    REACHED,
    as_stages,
    clone,
    commit,
    ledger,
    make_repository,
    planned,
    run_in,
    snakemake,
    stage_of,
    stale_stages,
)
from conftest import MINIATURE, write_params

pytestmark = pytest.mark.integration
# The stages of dvc.yaml for the miniature, in the order of the pipeline.
LAYERS = (
    "config",
    "zoo-classification-digits@mini",
    "tokens@mini",
    "train@mini",
    "sample-classification-digits@mini",
    "score-classification-digits@mini",
    "novelty-classification-digits@mini",
    "tables",
)
ZOO = LAYERS[1]
CURRENT = {"mini": "current", "tables": "current"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which `dvc repro` has made everything from nothing and the result was committed."""
    folder = make_repository(tmp_path_factory.mktemp("ledger") / "made")
    assert list(repro(folder)) == list(LAYERS)
    assert set(repro(folder).values()) == {"didn't change"}
    commit(folder)
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`, to change."""
    shutil.copytree(made, tmp_path / "repository", symlinks=True)
    return tmp_path / "repository"


@pytest.fixture
def pushed(repository: Path) -> Path:
    """`repository`, with a folder beside it as its remote, which has everything."""
    run_in(repository, "dvc", "remote", "add", "--default", "store", str(repository.parent / "remote"))
    assert "the remote has them" in ledger(repository, "push")
    commit(repository)
    return repository


def repro(folder: Path) -> dict[str, str]:
    """Run `dvc repro`; stage → 'ran', 'is cached' or "didn't change", in the order of the output."""
    text = run_in(folder, "dvc", "repro")
    found = re.findall(r"^(?:Running stage '(\S+)'|Stage '(\S+)' (didn't change|is cached))", text, re.M)
    return {ran or name: how or "ran" for ran, name, how in found}


def status(folder: Path) -> dict[str, str]:
    """`rpg ledger status`: experiment → what it says."""
    lines = [line.partition(" ") for line in ledger(folder, "status").splitlines()]
    return {name: words.strip() for name, _, words in lines}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every artifact and table but measured times, and the configuration, which the plain commands do not write."""
    results = folder / "results"
    files = [path for path in results.rglob("*") if path.is_file() and path.name != "config.yaml"]
    files = [path for path in files if "seconds" not in str(path.relative_to(results))]
    return {path.relative_to(results): path.read_bytes() for path in files}


def assert_all_current(folder: Path) -> None:
    assert planned(folder) == {}
    run_in(folder, "dvc", "status", "-q")
    assert status(folder) == CURRENT


def test_repro_makes_what_the_plain_commands_make(made: Path, finished: Path) -> None:
    assert contents(made) == contents(finished)
    assert_all_current(made)


def test_pull_into_a_clone_and_what_each_key_makes_stale_there(pushed: Path, tmp_path: Path) -> None:
    other = clone(pushed, tmp_path / "other")
    assert status(other)["mini"].startswith("missing: results/mini/zoo and 12 more")
    dry = run_in(other, "dvc", "repro", "--dry", "--allow-missing")
    assert re.findall(r"^Stage '(\S+)' didn't change, skipping$", dry, re.M) == list(LAYERS)
    assert "Running" not in dry

    ledger(other, "pull")
    assert contents(other) == contents(pushed)
    assert_all_current(other)
    for (block, key, value), rules in REACHED.items():
        write_params(other, **{block: {key: value}})
        assert set(planned(other)) == set(rules), (block, key)
        # It writes the resolved configuration, in which DVC tracks each key.
        assert status(other)["mini"] == f"stale because of experiments.mini.{block}.{key}"
        assert set(map(stage_of, stale_stages(other))) == {"config", *as_stages(set(rules))}, (block, key)
    before = contents(other)
    refused = "stale because of experiments.mini.novelty.networks"
    assert f"novelty-classification-digits@mini: {refused}; nothing was fetched" in ledger(other, "pull", ok=False)
    assert f"mini: {refused}; Snakemake's records did not change" in ledger(other, "adopt", ok=False)
    assert "is not up to date; run `snakemake" in ledger(other, "push", ok=False)
    assert set(planned(other)) == set(REACHED["novelty", "networks", 5])
    assert contents(other) == before
    write_params(other)
    code = other / "rpg/generator/sample.py"
    code.write_text(code.read_text() + "# changed\n")
    assert set(planned(other)) == {"sample", "score", "novelty", "tables"}
    assert status(other)["mini"] == "stale because of rpg/generator/sample.py"
    assert set(map(stage_of, stale_stages(other))) == {"sample", "score", "novelty", "tables"}
    refused = "sample-classification-digits@mini: stale because of rpg/generator/sample.py; nothing was fetched"
    assert refused in ledger(other, "pull", ok=False)


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        pytest.param("zoo", "weight_decay", 0.0, marks=pytest.mark.long),
        ("train", "steps", 50),
    ],
)
def test_old_results_come_back_with_their_key(repository: Path, block: str, key: str, value: float) -> None:
    before = contents(repository)
    write_params(repository, **{block: {key: value}})
    changed = {LAYERS[index] for index in range(1 if block == "zoo" else 3, len(LAYERS))}
    changed |= {"config"}
    assert {name for name, how in repro(repository).items() if how == "ran"} == changed
    assert contents(repository) != before
    assert_all_current(repository)
    between = contents(repository)
    # And forth once more, where it costs little.
    for params, expected in (({}, before), ({block: {key: value}}, between))[: 1 if block == "zoo" else 2]:
        write_params(repository, **params)
        how = repro(repository)
        # The zoo persists, for the sake of its shards, and what persists is not in the run-cache.
        assert {name for name in changed if how[name] == "ran"} == {"config", "tables"} | ({ZOO} & changed)
        assert {name for name in changed if how[name] == "is cached"} == changed - {"config", "tables", ZOO}
        assert contents(repository) == expected
        assert_all_current(repository)


@pytest.mark.long
def test_one_more_seed_and_one_less(repository: Path) -> None:
    before = contents(repository)
    zoo = repository / "results/mini/zoo"
    times = {path: path.stat().st_mtime_ns for path in zoo.rglob("*.safetensors")}
    write_params(repository, zoo={"seeds": [0, 1, 2, 4]})
    assert planned(repository)["zoo"] == 1
    assert set(repro(repository).values()) == {"ran"}
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list((zoo / "0004-0005").glob("*.safetensors"))) == 2
    assert_all_current(repository)

    write_params(repository)
    assert "zoo" not in planned(repository)
    repro(repository)
    assert not (zoo / "0004-0005").exists()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert json.loads((repository / "results/mini/tokens/layout.json").read_text())["seeds"] == [0, 1, 2]
    assert contents(repository) == before
    assert_all_current(repository)


@pytest.mark.long
def test_another_run_neither_deletes_nor_retrains(repository: Path) -> None:
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    tree["experiments"]["other"] = {**MINIATURE, "zoo": {**MINIATURE["zoo"], "seeds": [5]}}
    before = contents(repository)
    for run, ran in ((["other"], 8), (["mini", "other"], 2), (["mini"], 2)):
        tree["run"] = run
        (repository / "params.yaml").write_text(yaml.safe_dump(tree))
        assert "run `rpg ledger write`" in ledger(repository, "status", ok=False)
        ledger(repository, "write")
        assert list(repro(repository).values()).count("ran") == ran, run
        assert planned(repository) == {}
        assert set(status(repository).values()) == {"current"}
        assert {path: contents(repository)[path] for path in before if path.parts[0] == "mini"} == {
            path: content for path, content in before.items() if path.parts[0] == "mini"
        }
    assert contents(repository)[Path("tables.md")] == before[Path("tables.md")]


def test_what_snakemake_made_is_recorded_by_push(pushed: Path, tmp_path: Path) -> None:
    write_params(pushed, sample={"steps": 4})
    assert "is not up to date" in ledger(pushed, "push", ok=False)
    snakemake(pushed, "--cores", "2", "results/tables.md")
    for words in status(pushed).values():
        assert words.startswith("finished, but not recorded in dvc.lock; run `rpg ledger push` (stale because of ")
    ledger(pushed, "push")
    assert_all_current(pushed)
    commit(pushed)
    other = clone(pushed, tmp_path / "other")
    ledger(other, "pull")
    assert contents(other) == contents(pushed)
    assert_all_current(other)


def test_push_refuses_what_was_not_made_from_these_params(repository: Path) -> None:
    """Without Snakemake's records nothing tells that the samples were made with other steps."""
    shutil.rmtree(repository / ".snakemake")
    write_params(repository, sample={"steps": 4})
    assert "is not up to date" in ledger(repository, "push", ok=False)
    assert status(repository)["mini"] == "stale because of experiments.mini.sample.steps"


def test_push_refuses_strangers_and_tables_that_the_scores_do_not_give(repository: Path) -> None:
    for name in ("samples/9999.safetensors", "zoo/0000-0001/stranger.safetensors"):
        stranger = repository / "results/mini" / name
        shutil.copy(repository / "results/mini/samples/0000.safetensors", stranger)
        assert f"results/mini/{name}: no file of this experiment" in ledger(repository, "push", ok=False)
        stranger.unlink()
    with (repository / "results/tables.md").open("a") as tables:
        tables.write("| made up | 100.0 |\n")
    assert "results/tables.md: does not match the scores" in ledger(repository, "push", ok=False)
    assert status(repository)["tables"].startswith("stale because of results/tables.md")


def test_changed_code_that_changes_no_byte(repository: Path) -> None:
    with (repository / "rpg/evaluation/score.py").open("a") as code:
        code.write("# changed\n")
    # The answers of the score layer are read by novelty: Snakemake can't know that they stay, DVC sees that they do.
    assert set(planned(repository)) == {"score", "novelty", "tables"}
    # Novelty and the tables use that file, too.
    ran = [stage_of(name) for name, how in repro(repository).items() if how == "ran"]
    assert ran == ["score", "novelty", "tables"]
    assert_all_current(repository)


ARTIFACTS = (
    "zoo/0000-0001/0000-000042.safetensors",
    "tokens/tokens.safetensors",
    "tokens/stats.safetensors",
    "rpg/model.safetensors",
    "samples/0001.safetensors",
    "scores.json",
)


@pytest.mark.long
def test_truncated_artifact_is_named_and_not_used(pushed: Path) -> None:
    before = contents(pushed)
    for name in ARTIFACTS:
        path = pushed / "results/mini" / name
        path.write_bytes(path.read_bytes()[:-5])
        assert status(pushed)["mini"] == f"stale because of results/mini/{name}, which differs from dvc.lock"
        assert f"results/mini/{name}: not what dvc.lock records" in ledger(pushed, "pull", ok=False)
        assert "rpg: error: " in ledger(pushed, "push", ok=False)
        if name.startswith("zoo/"):
            # The zoo persists: DVC neither deletes it nor takes it from the run-cache.
            assert f"{name}: missing or changed since it was trained" in run_in(pushed, "dvc", "repro", ok=False)
            path.unlink()
            ledger(pushed, "pull")
        else:
            # Restored from the cache, not made again.
            assert set(repro(pushed).values()) == {"didn't change", "is cached"}
        assert contents(pushed) == before, name
    ledger(pushed, "pull")
    assert_all_current(pushed)


def cached(root: Path, md5: str) -> Path:
    return root / "files/md5" / md5[:2] / md5[2:]


def damage(path: Path) -> None:
    """Flip one bit of a file that DVC has made read-only, and leave it read-only."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.mark.long
def test_damaged_copy_in_cache_or_remote_is_named_and_not_used(pushed: Path, tmp_path: Path) -> None:
    before = contents(pushed)
    lock = yaml.safe_load((pushed / "dvc.lock").read_text())["stages"]
    recorded = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    samples = cached(pushed / ".dvc/cache", recorded["results/mini/samples"])
    inner = {entry["relpath"]: entry["md5"] for entry in json.loads(samples.read_text())}
    names = {
        "results/mini/tokens/tokens.safetensors": recorded["results/mini/tokens/tokens.safetensors"],
        "results/mini/samples": recorded["results/mini/samples"],
        "results/mini/samples/0001.safetensors": inner["0001.safetensors"],
    }
    for artifact, md5 in names.items():
        damage(cached(pushed / ".dvc/cache", md5))
        path = pushed / artifact
        if path.is_file():
            # DVC itself puts the damaged copy in place, and finds everything up to date.
            path.unlink()
            run_in(pushed, "dvc", "checkout")
            run_in(pushed, "dvc", "status", "-q")
            assert f"stale because of {artifact}, which differs from dvc.lock" in status(pushed)["mini"]
        assert f"{artifact}: the copy in DVC's cache is damaged" in ledger(pushed, "status")
        assert f"{artifact}: the copy in DVC's cache was damaged; dropped" in ledger(pushed, "pull")
        assert contents(pushed) == before
        assert_all_current(pushed)

    other = clone(pushed, tmp_path / "other")
    remote = cached(pushed.parent / "remote", names["results/mini/tokens/tokens.safetensors"])
    damage(remote)
    text = ledger(other, "pull", ok=False)
    assert "results/mini/tokens/tokens.safetensors: the remote lacks it, or holds a damaged copy" in text
    assert not (other / "results/mini/tokens/tokens.safetensors").exists()
    remote.unlink()
    ledger(pushed, "push")
    ledger(other, "pull")
    assert contents(other) == before
    assert_all_current(other)


@pytest.mark.long
def test_damaged_copy_in_the_run_cache_stops_repro_by_name(repository: Path) -> None:
    lock = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]
    md5 = next(out["md5"] for out in lock["train@mini"]["outs"] if out["path"].endswith("model.safetensors"))
    write_params(repository, train={"steps": 50})
    repro(repository)
    damage(cached(repository / ".dvc/cache", md5))
    write_params(repository)
    text = run_in(repository, "dvc", "repro", ok=False)
    assert "stale because of results/mini/rpg/model.safetensors, which differs from dvc.lock" in text
    text = run_in(repository, "python", "-m", "rpg", "sample", "--experiment", "mini", ok=False)
    assert "results/mini/rpg/model.safetensors: missing or changed since it was trained" in text


def test_without_a_remote_push_records_and_says_so(repository: Path) -> None:
    text = ledger(repository, "push", ok=False)
    assert "recorded in dvc.lock and in the cache, but not uploaded: there is no remote" in text
    shutil.rmtree(repository / "results/mini/samples")
    shutil.rmtree(repository / ".dvc/cache")
    assert "nothing can be fetched: there is no remote" in ledger(repository, "pull", ok=False)


def test_metrics_plots_params_and_experiments(repository: Path) -> None:
    shown = json.loads(run_in(repository, "dvc", "metrics", "show", "--json"))
    entry = json.loads((repository / "results/mini/metrics.json").read_text())
    # DVC shows numbers and words, no lists.
    for summary in (entry["original"], entry["rpg"], entry["differences"]["original"]["all"]):
        del summary["interval"]
    assert shown[""]["data"] == {"results/mini/metrics.json": {"data": entry}}
    plots = json.loads(run_in(repository, "dvc", "plots", "show", "--json"))["data"]
    assert set(plots) == {"loss", "accuracy", "novelty"}
    loss, accuracy, novelty = (plots[name][0]["content"]["data"]["values"] for name in ("loss", "accuracy", "novelty"))
    assert len(novelty) == 6 + 4 + 4 * (2 + 9)
    assert [row["step"] for row in loss] == ["10", "20", "30", "40"]
    assert len(accuracy) == 10
    run_in(repository, "dvc", "exp", "run", "--name", "five-steps", "-S", "experiments.mini.sample.steps=5")
    assert yaml.safe_load((repository / "params.yaml").read_text())["experiments"]["mini"]["sample"]["steps"] == 5
    assert planned(repository) == {}
    table = run_in(repository, "dvc", "exp", "show", "--csv", "--only-changed", "--drop", "(results|rpg)[^:]*$")
    assert "five-steps" in table
    difference = json.loads(run_in(repository, "dvc", "params", "diff", "--json"))
    steps = {"old": 3, "new": 5, "diff": 2}
    assert difference == {
        "params.yaml": {"experiments.mini.sample.steps": steps},
        "results/mini/config.yaml": {"sample.steps": steps},
    }
    assert "results/mini/metrics.json" in run_in(repository, "dvc", "metrics", "diff", "--all")
