import copy
import json

import pytest
import yaml
from conftest import MINIATURE, ROOT

from rpg.errors import UserError
from rpg.params import FORBIDDEN_KEYS, check_params, json_schema, load_params


def tree() -> dict:
    return {"run": ["mini"], "data_root": None, "experiments": {"mini": copy.deepcopy(MINIATURE)}}


def fault(change) -> str:
    """The one line that `change` to a good tree leads to."""
    changed = tree()
    change(changed)
    with pytest.raises(UserError) as error:
        check_params(changed)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("params.yaml: ")
    return line.removeprefix("params.yaml: ")


def mini(changed: dict) -> dict:
    return changed["experiments"]["mini"]


def test_shipped_params_are_read() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.run == ["digits-resnet", "digits-vit", "digits-convnext"]
    for name in params.run:
        zoo = params.experiment(name).zoo
        assert len(zoo.seeds) >= 8
        assert zoo.saves >= 5
        assert params.experiment(name).sample.count >= 20


def test_schema_on_disk_is_the_code_s() -> None:
    assert (ROOT / "workflow/schemas/params.schema.json").read_text() == json_schema()


def test_no_key_that_the_run_cache_ignores() -> None:
    def keys(node: object):
        if isinstance(node, dict):
            for key, value in node.items():
                yield key
                yield from keys(value)
        elif isinstance(node, list):
            for value in node:
                yield from keys(value)

    assert not set(FORBIDDEN_KEYS) & set(keys(yaml.safe_load((ROOT / "params.yaml").read_text())))
    assert not set(FORBIDDEN_KEYS) & set(keys(json.loads(json_schema())))


@pytest.mark.parametrize("key", FORBIDDEN_KEYS)
def test_forbidden_key_is_named_at_any_depth(key: str) -> None:
    line = fault(lambda t: mini(t)["task"]["network"]["arguments"].update({"deep": [{key: 3}]}))
    assert line.startswith(f"experiments.mini.task.network.arguments.deep.0.{key}: no key may be called '{key}'")


def test_misspelt_key_is_named_with_the_one_meant() -> None:
    line = fault(lambda t: mini(t)["train"].update(stesp=mini(t)["train"].pop("steps")))
    assert line == "experiments.mini.train.steps: missing; is 'stesp' meant?"


def test_unknown_key_is_named() -> None:
    assert fault(lambda t: mini(t)["train"].update(momentum=0.9)) == "experiments.mini.train.momentum: unknown key"


def test_unknown_key_inside_a_flavor_is_named_without_the_flavor() -> None:
    assert fault(lambda t: mini(t)["model"].update(layers=2)) == "experiments.mini.model.layers: unknown key"


def test_unknown_flavor_is_named() -> None:
    line = fault(lambda t: mini(t)["model"].update(flavor="new"))
    assert line.startswith("experiments.mini.model: ")
    assert "'paper', 'residual'" in line


@pytest.mark.parametrize("value", ["40", 40.5, True, None, [40]])
def test_wrong_type_is_named_with_the_value(value: object) -> None:
    line = fault(lambda t: mini(t)["train"].update(steps=value))
    assert line == f"experiments.mini.train.steps: input should be a valid integer, not {json.dumps(value)}"


def test_value_out_of_range_is_named() -> None:
    line = fault(lambda t: mini(t)["sample"].update(steps=1001))
    assert line == "experiments.mini.sample.steps: input should be less than or equal to 1000, not 1001"


@pytest.mark.parametrize("channels", [[1, 4, 4, 1], [1, 4, 6, 8, 1], [1, 4, 6, 6, 4, 1], [2, 4, 6, 4, 2]])
def test_channels_that_the_skips_do_not_fit_are_refused(channels: list[int]) -> None:
    model = {
        "flavor": "paper",
        "width": 32,
        "state_width": 16,
        "head_width": 16,
        "expand": 2,
        "channels": channels,
        "kernel": 7,
    }
    assert "channels" in fault(lambda t: mini(t).update(model=model))


def test_a_seed_twice_is_refused() -> None:
    assert "a seed stands there twice" in fault(lambda t: mini(t)["zoo"].update(seeds=[1, 1]))


def test_run_names_only_known_experiments() -> None:
    assert fault(lambda t: t.update(run=["mimi"])) == "run: no experiment 'mimi'; did you mean 'mini'?"


def test_experiment_names_cannot_leave_results() -> None:
    assert "experiments" in fault(lambda t: t["experiments"].update({"../x": copy.deepcopy(MINIATURE)}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "run: [",
        "a: !!python/object/apply:os.system ['true']",
        "data_root: 2023-99-99",
        "run: &a [*a]",
        "[" * 2000,
        "run: 1\nrun: 2",
        "\0",
    ],
)
def test_files_that_are_no_mapping_are_one_line(tmp_path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_params(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_key_twice_is_named_but_a_merge_may_be_overridden(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    text = yaml.safe_dump(tree())
    path.write_text(text.replace("      ema: 0.9\n", "      ema: 0.9\n      ema: 0.5\n"))
    with pytest.raises(UserError, match="the key 'ema' stands twice"):
        load_params(path)
    path.write_text("run: [mini]\ndata_root: null\nexperiments: {}\n")
    with pytest.raises(UserError, match="run: no experiment 'mini'"):
        load_params(path)
    assert load_params(ROOT / "params.yaml").experiment("digits-vit-paper").train.ema == 0.0


def test_infinite_numbers_are_refused() -> None:
    assert "learning_rate" in fault(lambda t: mini(t)["train"].update(learning_rate=float("inf")))


def test_blocks_are_frozen() -> None:
    zoo = check_params(tree()).experiment("mini").zoo
    with pytest.raises(ValueError, match="frozen"):
        zoo.steps = 1


def test_a_new_seed_leaves_the_other_shards_as_they_are() -> None:
    def shards(*seeds: int) -> dict[str, list[int]]:
        changed = tree()
        mini(changed)["zoo"]["seeds"] = list(seeds)
        return check_params(changed).experiment("mini").zoo.shards()

    assert shards(0, 1, 3) == {"0000-0001": [0, 1], "0002-0003": [3]}
    assert shards(0, 1, 3, 4) == {**shards(0, 1, 3), "0004-0005": [4]}
    assert shards(3, 1) == {"0000-0001": [1], "0002-0003": [3]}


@pytest.mark.parametrize(("text", "number"), [("1e-05", 1e-5), ("4e-3", 4e-3), ("0.002", 2e-3), ("2E-3", 2e-3)])
def test_floats_as_dvc_writes_them(tmp_path, text: str, number: float) -> None:
    """`dvc exp run -S ...=0.00001` writes 1e-05, which PyYAML alone reads as text."""
    tree = {"run": ["mini"], "data_root": None, "experiments": {"mini": MINIATURE}}
    whole = yaml.safe_dump(tree)
    assert "learning_rate: 0.003" in whole
    (tmp_path / "params.yaml").write_text(whole.replace("learning_rate: 0.003", f"learning_rate: {text}"))
    assert load_params(tmp_path / "params.yaml").experiment("mini").train.learning_rate == number
