import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import run_layers, write_params
from safetensors.torch import load_file

from rpg.config.loading import load_params
from rpg.tasks.base import Save
from rpg.tasks.classification.task import Classification
from rpg.tasks.config import Run, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import sha256
from rpg.zoo.shards import NEXT, train_shard

TRAIN = Classification.train


def test_manifest_lists_every_seed_and_save(finished: Path) -> None:
    found = []
    for shard, seeds in {"0000-0001": [0, 1], "0002-0003": [2]}.items():
        folder = finished / "results/mini/zoo" / shard
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {checkpoint["seed"] for checkpoint in manifest["checkpoints"]} == set(seeds)
        for checkpoint in manifest["checkpoints"]:
            assert checkpoint["file"] == f"{checkpoint['seed']:04d}-{checkpoint['step']:06d}.safetensors"
            assert checkpoint["sha256"] == sha256(folder / checkpoint["file"])
            assert 0 <= checkpoint["validation_top1"] <= 100
            found.append((checkpoint["seed"], checkpoint["step"]))
            assert set(manifest["tensors"]) == set(load_file(folder / checkpoint["file"]))
        assert {path.name for path in folder.iterdir()} == {
            "manifest.json",
            *(checkpoint["file"] for checkpoint in manifest["checkpoints"]),
        }
    assert found == [(0, 42), (0, 44), (1, 42), (1, 44), (2, 42), (2, 44)]


def test_a_seed_s_networks_do_not_depend_on_its_shard(finished: Path, tmp_path: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    alone = [run for run in experiment.runs().values() if run.seed == 1]
    train_shard(experiment, alone, tmp_path / "alone", tmp_path / "base", None)
    for path in (tmp_path / "alone").glob("*.safetensors"):
        assert path.read_bytes() == (finished / "results/mini/zoo/0000-0001" / path.name).read_bytes()


def test_files_of_a_dropped_seed_are_removed(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results/mini/zoo/0000-0001"
    folder.mkdir(parents=True)
    (folder / "0001-000042.safetensors").write_bytes(b"of an older choice")
    write_params(tmp_path, zoo={"seeds": [0]})
    run_layers(tmp_path, "zoo")
    assert sorted(path.name for path in folder.iterdir()) == [
        "0000-000042.safetensors",
        "0000-000044.safetensors",
        "manifest.json",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_at(seed: int, error: BaseException):
    """`Classification.train` that raises `error` after it has saved a network of `seed`."""

    def train(
        task: Classification, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save
    ) -> None:
        def and_stop(step: int, state_dicts: list[StateDict]) -> None:
            save(step, state_dicts)
            if runs[0].seed == seed:
                raise error

        TRAIN(task, zoo, runs, bases, and_stop)

    return train


def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that are trained from now on."""
    seeds: list[int] = []

    def train(
        task: Classification, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save
    ) -> None:
        seeds.append(runs[0].seed)
        TRAIN(task, zoo, runs, bases, save)

    monkeypatch.setattr(Classification, "train", train)
    return seeds


def test_killed_shard_goes_on_with_the_seed_that_was_not_finished(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    runs, folder = experiment.shards()["0000-0001"], tmp_path / "0000-0001"
    monkeypatch.setattr(Classification, "train", stop_at(1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train_shard(experiment, runs, folder, tmp_path / "base", None)
    assert sorted(contents(folder)) == [
        "0000-000042.safetensors", "0000-000044.safetensors", "0001-000042.safetensors", "finished.json"
    ]  # fmt: skip
    seeds = trained(monkeypatch)
    train_shard(experiment, runs, folder, tmp_path / "base", None)
    assert seeds == [1]
    assert contents(folder) == contents(finished / "results/mini/zoo/0000-0001")


@pytest.mark.parametrize("fault", ["checkpoint", "list", "recipe", "code"])
def test_what_was_finished_counts_only_as_it_was_left(
    fault: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    other = experiment.model_copy(update={"zoo": experiment.zoo.model_copy(update={"learning_rate": 0.001})})
    runs, folder = experiment.shards()["0000-0001"], tmp_path / "0000-0001"
    monkeypatch.setattr(Classification, "train", stop_at(1, KeyboardInterrupt()))
    with monkeypatch.context() as patch:
        if fault == "code":
            patch.setattr("rpg.zoo.shards.code_digest", lambda *_: "that of older code")
        with pytest.raises(KeyboardInterrupt):
            train_shard(other if fault == "recipe" else experiment, runs, folder, tmp_path / "base", None)
    if fault == "checkpoint":
        (folder / "0000-000044.safetensors").write_bytes(b"another network")
    elif fault == "list":
        (folder / "finished.json").write_text("{")
    seeds = trained(monkeypatch)
    train_shard(experiment, runs, folder, tmp_path / "base", None)
    assert seeds == [0, 1]
    assert "zoo: starting over (" in capsys.readouterr().err
    assert contents(folder) == contents(finished / "results/mini/zoo/0000-0001")


def test_diverged_seed_is_trained_as_the_next_one_and_recorded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    runs, folder = experiment.shards()["0000-0001"], tmp_path / "0000-0001"
    monkeypatch.setattr(Classification, "train", stop_at(1, Diverged("zoo: seed 1 diverged at step 42")))
    train_shard(experiment, runs, folder, tmp_path / "base", None)
    assert f"zoo: seed 1 diverged at step 42; training seed {1 + NEXT} in its place" in capsys.readouterr().err
    # What stands in for it is what that seed gives by itself; the others are as ever.
    stand_in = [Run(seed=1 + NEXT, code=None, held_out=False)]
    train_shard(experiment, stand_in, tmp_path / "alone", tmp_path / "base", None)
    expected = contents(finished / "results/mini/zoo/0000-0001")
    for step in (42, 44):
        expected[f"0001-{step:06d}.safetensors"] = (tmp_path / f"alone/{1 + NEXT}-{step:06d}.safetensors").read_bytes()
    manifest = json.loads(expected.pop("manifest.json"))
    found = contents(folder)
    tree = json.loads(found.pop("manifest.json"))
    assert found == expected
    assert tree.pop("diverged") == {"1": 1 + NEXT}
    assert [entry["seed"] for entry in tree["checkpoints"]] == [0, 0, 1, 1]
    assert tree["recipe"] == manifest["recipe"]


def test_seeds_at_once_of_which_one_diverges_are_trained_each_by_itself(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = load_params(finished / "params.yaml").experiment("mini")
    at_once = alone.model_copy(update={"zoo": alone.zoo.model_copy(update={"together": 2})})
    runs, both = alone.shards()["0000-0001"], tmp_path / "both"
    trained_at_once = trained(monkeypatch)
    train_shard(at_once, runs, both, tmp_path / "base", None)
    assert trained_at_once == [0]
    tree = json.loads((both / "manifest.json").read_text())
    assert [(entry["seed"], entry["step"]) for entry in tree["checkpoints"]] == [(0, 42), (0, 44), (1, 42), (1, 44)]

    def train(
        task: Classification, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save
    ) -> None:
        if any(run.seed == 1 for run in runs):
            raise Diverged("zoo: seed 0, 1 diverged at step 3")
        TRAIN(task, zoo, runs, bases, save)

    monkeypatch.setattr(Classification, "train", train)
    train_shard(at_once, runs, both, tmp_path / "base", None)
    told = capsys.readouterr().err
    assert "zoo: seed 0, 1 diverged at step 3; training each seed by itself" in told
    tree = json.loads((both / "manifest.json").read_text())
    assert tree["diverged"] == {"1": 1 + NEXT}
    assert [(entry["seed"], entry["step"]) for entry in tree["checkpoints"]] == [(0, 42), (0, 44), (1, 42), (1, 44)]
    # Seed 0 is what it is by itself.
    for step in (42, 44):
        name = f"0000-{step:06d}.safetensors"
        assert (both / name).read_bytes() == (finished / "results/mini/zoo/0000-0001" / name).read_bytes()


def test_zoo_whose_every_seed_diverges_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(tmp_path, zoo={"learning_rate": 1e30})
    with pytest.raises(SystemExit) as stop:
        run_layers(tmp_path, "zoo")
    assert stop.value.code == 2
    *replaced, last = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert [f"training seed {k * NEXT} in its place" in line for k, line in enumerate(replaced, 1)] == [True] * 3
    assert last.startswith(f"rpg: error: zoo: seed {3 * NEXT} diverged at step 2; lower its learning_rate")
    assert [path.name for path in (tmp_path / "results/mini/zoo/0000-0001").iterdir()] == []


@pytest.mark.parametrize(("name", "condition"), [("asked", "text"), ("shown", "images")])
def test_a_wrong_number_of_features_is_found_before_the_zoo(
    name: str, condition: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch, capsys
) -> None:
    """`rpg tune` would find it after hours of training."""
    monkeypatch.chdir(request.getfixturevalue(name))
    experiment = load_params().experiment(name)
    assert experiment.base
    run = next(iter(experiment.runs().values()))
    of = next(index for index, one in enumerate(experiment.model.conditions) if one.kind == condition)
    right = experiment.model.conditions[of].features
    experiment.model.conditions[of] = experiment.model.conditions[of].model_copy(update={"features": 7})
    with pytest.raises(UserError, match=f"{condition}: features: 7, .* gives {right}; set features to {right}"):
        train_shard(experiment, [run], tmp_path, Path(f"results/{name}/base"), None)
    assert not [*tmp_path.iterdir()]
