import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import MINIATURE, ROOT, SETTINGS
from dvc.utils.hydra import apply_overrides

from rpg.config.loading import check_params, load_params
from rpg.config.presets import merged, origin, resolve
from rpg.utils.errors import UserError

FROZEN = ROOT / "tests/unit/config/frozen_configs.json"


def resolved(presets: object, **experiments: object) -> dict:
    """The experiments, with what they inherit."""
    return resolve({"presets": presets, "experiments": experiments}, "params.yaml")["experiments"]


def fault(presets: object, **experiments: object) -> str:
    """The line of the error."""
    with pytest.raises(UserError) as error:
        resolved(presets, **experiments)
    return str(error.value).removeprefix("params.yaml: ")


def extended(preset: dict, **own: object) -> dict:
    """A whole tree with the miniature, whose `train` block is `preset`; `own` is the experiment's own `train` block."""
    experiment = {**copy.deepcopy(MINIATURE), "extends": "short", "train": own}
    presets = {"short": {"train": {**MINIATURE["train"], **preset}}}
    return {**SETTINGS, "run": ["mini"], "presets": presets, "experiments": {"mini": experiment}}


def frozen_form(experiment: dict) -> dict:
    """The experiment with the keys of the `model` block as frozen_configs.json has them.

    It was written when `flavor` (paper or residual) stood for a backbone with its denoiser. Their keys then were keys
    of `model`; an MLP as the mixer was `recurrent: none`, and the paper's flavor had no `start`.
    """
    model = dict(experiment["model"])
    backbone, denoiser = dict(model.pop("backbone")), dict(model.pop("denoiser"))
    mixer, kind = backbone.pop("kind"), denoiser.pop("kind")
    if mixer == "paper":
        assert (kind, model.pop("start")) == ("convolution", "zero")
        return {**experiment, "model": {"flavor": "paper", **model, **backbone, **denoiser}}
    assert kind == "mlp"
    old = {"recurrent": "none" if mixer == "mlp" else mixer, "denoiser": kind}
    old |= {"hidden": denoiser.pop("hidden"), "denoiser_blocks": denoiser.pop("blocks")}
    assert not denoiser
    return {**experiment, "model": {"flavor": "residual", **model, **backbone, **old}}


def test_shipped_experiments_are_the_frozen_ones() -> None:
    """A change of params.yaml that is meant changes tests/unit/config/frozen_configs.json, too."""
    params = load_params(ROOT / "params.yaml")
    found = {name: frozen_form(experiment.model_dump()) for name, experiment in params.experiments.items()}
    frozen = json.loads(FROZEN.read_text())
    assert found.keys() == frozen.keys()
    for name, experiment in frozen.items():
        assert found[name] == experiment, name


def test_frozen_file_has_an_experiment_on_each_line() -> None:
    frozen = json.loads(FROZEN.read_text())
    lines = [f"{json.dumps(name)}: {json.dumps(frozen[name], sort_keys=True)}" for name in sorted(frozen)]
    assert FROZEN.read_text() == "{\n" + ",\n".join(lines) + "\n}\n"


def test_shipped_file_is_short_uses_each_preset_and_extends_presets_only() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    assert len(lines) <= 1350
    assert max(map(len, lines)) <= 120
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    variants = [variant for ablation in tree["ablations"].values() for variant in ablation["variants"].values()]
    blocks = [*tree["presets"].values(), *tree["experiments"].values(), *variants]
    parents = [block.get("extends", []) for block in blocks]
    used = {name for names in parents for name in ([names] if isinstance(names, str) else names)}
    assert tree["presets"].keys() == used


def test_dvc_changes_one_shipped_experiment(tmp_path: Path) -> None:
    """As the head of params.yaml says: no other experiment inherits what `dvc exp run -S` sets."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", ["++experiments.digits-tasks.sample.steps=1"])
    before, after = load_params(ROOT / "params.yaml"), load_params(tmp_path / "params.yaml")
    changed = [name for name in before.experiments if after.experiments[name] != before.experiments[name]]
    assert changed == ["digits-tasks"]
    assert after.experiment("digits-tasks").sample.steps == 1


def test_mappings_merge_key_by_key_and_other_values_replace() -> None:
    preset = {"a": {"x": 1, "list": [1, 2], "deep": {"p": 1, "q": 2}}, "b": {"z": 0}}
    own = {"a": {"y": 3, "list": [5], "deep": {"q": 4}}}
    expected = {"a": {"x": 1, "y": 3, "list": [5], "deep": {"p": 1, "q": 4}}, "b": {"z": 0}}
    assert resolved({"p": preset}, e={"extends": "p", **own}) == {"e": expected}


def test_an_empty_mapping_keeps_the_inherited_keys_and_an_empty_list_does_not() -> None:
    found = resolved({"p": {"a": {"x": 1}, "b": [1]}}, e={"extends": "p", "a": {}, "b": []})
    assert found["e"] == {"a": {"x": 1}, "b": []}


def test_a_denoiser_or_backbone_of_another_kind_inherits_the_keys_that_its_kind_has() -> None:
    """Any other block merges key by key, whatever its kind."""
    backbone = {**MINIATURE["model"]["backbone"], "positions": ["1d"]}
    denoiser, task = MINIATURE["model"]["denoiser"], {"kind": "a", "x": 1}
    preset = {"model": {"backbone": backbone, "denoiser": denoiser}, "task": task}
    convolution = {"kind": "convolution", "channels": [1, 2, 2, 2, 1], "kernel": 3}

    def found(**model: dict) -> dict:
        return resolved({"p": preset}, e={"extends": "p", "model": model})["e"]["model"]

    assert found(denoiser=convolution) == {"backbone": backbone, "denoiser": convolution}
    assert found(denoiser={"kind": "none"})["denoiser"] == {"kind": "none"}
    assert found(denoiser={"hidden": 5})["denoiser"] == {**denoiser, "hidden": 5}
    assert found(backbone={"kind": "lstm"})["backbone"] == {**backbone, "kind": "lstm"}
    paper = {"kind": "paper", "width": 8, "prototype_projection": True}
    kept = {key: backbone[key] for key in ("state_width", "head_width", "expand")}
    assert found(backbone=paper)["backbone"] == {**paper, **kept}
    # Kinds that do not exist, and keys that no kind has, are left to the validation.
    assert found(denoiser={"kind": "gan"})["denoiser"] == {**denoiser, "kind": "gan"}
    assert found(denoiser={"kind": [3]})["denoiser"] == {**denoiser, "kind": [3]}
    wrong = {"model": {"denoiser": {"kind": "mlp", "hiden": 3}}}
    assert resolved({"p": wrong}, e={"extends": "p", "model": {"denoiser": {"kind": "none"}}})["e"]["model"] == {
        "denoiser": {"kind": "none", "hiden": 3}
    }
    assert resolved({"p": preset}, e={"extends": "p", "task": {"kind": "b"}})["e"]["task"] == {"kind": "b", "x": 1}


def test_a_shipped_experiment_may_exchange_its_denoiser_or_its_backbone_alone() -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    convolution = {"kind": "convolution", "channels": [1, 8, 16, 8, 1], "kernel": 7}
    paper = {"kind": "paper", "prototype_projection": True}
    tree["experiments"] |= {
        "x": {"extends": "digits-vit", "model": {"denoiser": convolution}},
        "y": {"extends": "digits-vit", "model": {"backbone": paper}},
    }
    params = check_params(tree)
    base, x, y = (params.experiment(name).model_dump() for name in ("digits-vit", "x", "y"))
    assert x == {**base, "model": {**base["model"], "denoiser": convolution}}
    widths = {key: base["model"]["backbone"][key] for key in ("width", "state_width", "head_width", "expand")}
    assert y == {**base, "model": {**base["model"], "backbone": {**paper, **widths}}}


def test_later_parents_go_before_earlier_ones_and_own_keys_before_all() -> None:
    presets = {"p": {"a": {"x": 1, "y": 1, "z": 1}}, "q": {"a": {"y": 2, "z": 2}}}
    assert resolved(presets, e={"extends": ["p", "q"], "a": {"z": 3}})["e"] == {"a": {"x": 1, "y": 2, "z": 3}}
    assert resolved(presets, e={"extends": ["q", "p"], "a": {"z": 3}})["e"] == {"a": {"x": 1, "y": 1, "z": 3}}


def test_a_parent_brings_its_own_parents() -> None:
    """q has p's value of `x`; the list of e puts r's parents before q."""
    presets = {
        "p": {"a": {"x": 1, "y": 1}},
        "q": {"extends": "p", "a": {"y": 2}},
        "r": {"extends": ["p"], "a": {"w": 4}},
    }
    assert resolved(presets, e={"extends": "q"})["e"] == {"a": {"x": 1, "y": 2}}
    assert resolved(presets, e={"extends": ["q", "r"]})["e"] == {"a": {"x": 1, "y": 1, "w": 4}}


def test_an_experiment_extends_an_experiment_that_stands_below_it() -> None:
    found = resolved({"p": {"a": {"x": 1}}}, e={"extends": ["f"], "a": {"y": 3}}, f={"extends": "p", "a": {"y": 2}})
    assert found == {"e": {"a": {"x": 1, "y": 3}}, "f": {"a": {"x": 1, "y": 2}}}


def test_null_removes_a_block_and_a_mapping_replaces_null_or_a_scalar() -> None:
    presets = {"p": {"a": {"x": 1}, "b": None, "c": 7}}
    found = resolved(
        presets, e={"extends": "p", "a": None, "b": {"y": 2}, "c": {"z": 3}}, f={"extends": "e", "a": {"w": 4}}
    )
    assert found["e"] == {"a": None, "b": {"y": 2}, "c": {"z": 3}}
    assert found["f"] == {"a": {"w": 4}, "b": {"y": 2}, "c": {"z": 3}}


def test_experiments_share_nothing_and_the_tree_stays_as_it_is() -> None:
    tree = {"run": ["e"], "presets": {"p": {"a": {"x": [1]}}}, "experiments": {n: {"extends": "p"} for n in "ef"}}
    before = copy.deepcopy(tree)
    found = resolve(tree, "params.yaml")
    found["experiments"]["e"]["a"]["x"].append(2)
    found["run"].append("f")
    assert found["experiments"]["f"] == {"a": {"x": [1]}}
    assert tree == before
    assert list(found) == ["run", "experiments"]
    assert merged(tree, "params.yaml")["experiments"]["e"]["a"] is tree["presets"]["p"]["a"]


def test_trees_without_presets_and_without_experiments_stay_as_they_are() -> None:
    assert resolve({"experiments": {"e": {"a": 1}, "f": 3}}, "x") == {"experiments": {"e": {"a": 1}, "f": 3}}
    assert resolve({"run": [], "experiments": None, "presets": {}}, "x") == {"run": [], "experiments": None}
    assert resolved({}, e={"extends": [], "a": 1}) == {"e": {"a": 1}}
    # Below the blocks `extends` is a key like others.
    assert resolved({}, e={"a": {"extends": "p"}}) == {"e": {"a": {"extends": "p"}}}


def test_a_preset_with_keys_that_no_experiment_has_is_fine_until_it_is_used() -> None:
    tree = extended({})
    tree["presets"]["odd"] = {"trian": {"steps": 1}}
    assert check_params(tree).experiment("mini").train.model_dump() == MINIATURE["train"]
    tree["experiments"]["mini"]["extends"] = ["short", "odd"]
    with pytest.raises(UserError, match=r"experiments\.mini\.trian: unknown key \(from preset odd\)$"):
        check_params(tree)


def variants(presets: dict, **own: object) -> dict:
    """The variants of an ablation, with what they inherit."""
    tree = {"presets": presets, "experiments": {"e": {}}, "ablations": {"why": {"seeds": [0], "variants": own}}}
    found = resolve(tree, "params.yaml")["ablations"]["why"]
    assert found["seeds"] == [0]
    return found["variants"]


def test_a_variant_changes_what_its_presets_hold_and_then_its_own_keys() -> None:
    """Blocks of a block, such as `generator`, are replaced as a whole."""
    presets = {
        "p": {"a": {"x": {"y": 1}, "z": 2}, "b": None},
        "q": {"extends": "p", "a": {"z": 3}},
        "r": {"a": {"w": 4}},
    }
    found = variants(presets, one={"extends": "q"}, two={"extends": ["p", "r"], "a.x.y": 5, "b": 6}, none={})
    assert found["one"] == {"a.x": {"y": 1}, "a.z": 3, "b": None}
    assert found["two"] == {"a.x": {"y": 1}, "a.z": 2, "b": 6, "a.w": 4, "a.x.y": 5}
    # The changes are made in this order.
    assert list(found["two"]).index("a.x") < list(found["two"]).index("a.x.y")
    assert found["none"] == {}


@pytest.mark.parametrize(
    ("extends", "line"),
    [
        ("zzz", "no preset 'zzz'; known: p"),
        ("e", "'e' is an experiment, but only an experiment can extend one; name a preset"),
        (["p", "p"], "'p' is listed twice; remove one"),
        (3, "must be a name or a list of names, not 3; write `extends: [a, b]`"),
    ],
)
def test_a_bad_parent_of_a_variant_is_named(extends: object, line: str) -> None:
    with pytest.raises(UserError) as error:
        variants({"p": {}}, one={"extends": extends})
    assert str(error.value) == f"params.yaml: ablations.why.variants.one.extends: {line}"


def test_a_variant_of_presets_is_a_trial() -> None:
    tree = extended({})
    preset = {"train": {"steps": 7}, "model": {"conditions": [{"kind": "unconditional"}]}}
    ablation = {"question": "?", "experiment": "mini", "seeds": [3], "novelty": False}
    ablation["variants"] = {"any": {"extends": "other", "train.batch": 2}}
    params = check_params({**tree, "presets": {**tree["presets"], "other": preset}, "ablations": {"why": ablation}})
    trial = params.experiment("why/any-3")
    assert (trial.train.steps, trial.train.batch, trial.train.seed) == (7, 2, 3)
    assert [condition.kind for condition in trial.model.conditions] == ["unconditional"]


@pytest.mark.parametrize(
    ("presets", "experiments", "line"),
    [
        (
            {"mamba-mlp": {}, "paper": {}},
            {"e": {"extends": "mamba-mpl"}},
            "experiments.e.extends: no preset or experiment 'mamba-mpl'; did you mean 'mamba-mlp'?",
        ),
        (
            {"p": {}, "q": {}},
            {"e": {"extends": ["p", "zzz"]}},
            "experiments.e.extends: no preset or experiment 'zzz'; known: e, p, q",
        ),
        ({"p": {"extends": "zzz"}, "q": {}}, {}, "presets.p.extends: no preset 'zzz'; known: p, q"),
        (
            {"p": {"extends": "e"}},
            {"e": {}},
            "presets.p.extends: 'e' is an experiment, but only an experiment can extend one; name a preset",
        ),
        (
            {"p": {"extends": "q"}, "q": {"extends": ["r"]}, "r": {"extends": "q"}},
            {"e": {"extends": "p"}},
            "presets.r.extends: cycle q → r → q; remove one of these parents",
        ),
        ({}, {"e": {"extends": "e"}}, "experiments.e.extends: cycle e → e; remove one of these parents"),
        (
            {},
            {"e": {"extends": "f"}, "f": {"extends": "e"}},
            "experiments.f.extends: cycle e → f → e; remove one of these parents",
        ),
        ({"p": {}}, {"e": {"extends": ["p", "p"]}}, "experiments.e.extends: 'p' is listed twice; remove one"),
        (
            {},
            {"e": {"extends": None}},
            "experiments.e.extends: must be a name or a list of names, not null; write `extends: [a, b]`",
        ),
        (
            {"p": {"extends": {"q": 1}}},
            {},
            'presets.p.extends: must be a name or a list of names, not {"q": 1}; write `extends: [a, b]`',
        ),
        (
            {},
            {"e": {"extends": ["p", 3]}},
            'experiments.e.extends: must be a name or a list of names, not ["p", 3]; write `extends: [a, b]`',
        ),
        ({"p": 3}, {}, "presets.p: must be a mapping of blocks, not 3; write p: {}"),
        ({"p": None}, {}, "presets.p: must be a mapping of blocks, not null; write p: {}"),
        (
            {},
            {"e": {"extends": "f"}, "f": [1]},
            "experiments.f: must be a mapping of blocks, not [1]; write f: {}",
        ),
        ([1], {}, "presets: must be a mapping, not [1]; write `presets: {}`"),
        ({"e": {}}, {"e": {}}, "presets.e: an experiment has the same name; rename one of them"),
    ],
)
def test_faults_are_named_with_their_remedy(presets: object, experiments: dict, line: str) -> None:
    assert fault(presets, **experiments) == line


def test_load_params_names_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    tree = extended({})
    tree["experiments"]["mini"]["extends"] = "shotr"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as error:
        load_params(path)
    assert str(error.value) == (
        f"{path}: experiments.mini.extends: no preset or experiment 'shotr'; did you mean 'short'?"
    )


def test_a_fault_of_an_inherited_value_names_the_preset() -> None:
    steps = "params.yaml: experiments.mini.train.steps: input should be a valid integer, not "
    for tree, line in (
        (extended({"steps": "40"}), f'{steps}"40" (from preset short)'),
        (extended({}, steps="50"), f'{steps}"50"'),
        (
            extended({"betas": [0.9, 2.0]}),
            "params.yaml: experiments.mini.train.betas.1: input should be less than 1, not 2.0 (from preset short)",
        ),
        (extended({"momentum": 0.9}), "params.yaml: experiments.mini.train.momentum: unknown key (from preset short)"),
    ):
        with pytest.raises(UserError) as error:
            check_params(tree)
        assert str(error.value) == line
    tree = extended({}, steps="50")
    tree["experiments"]["more"] = {"extends": "mini", "train": {"batch": 3}}
    tree["experiments"] = dict(reversed(tree["experiments"].items()))
    with pytest.raises(UserError) as error:
        check_params(tree)
    assert str(error.value) == (
        'params.yaml: experiments.more.train.steps: input should be a valid integer, not "50" (from experiment mini)'
    )


def test_origin_is_the_parent_whose_value_counts() -> None:
    presets = {"p": {"a": {"x": 1, "y": 1}}, "q": {"a": {"y": 2}}, "r": {"extends": "p"}}
    tree = {
        "presets": presets,
        "experiments": {"e": {"extends": ["p", "q"]}, "f": {"extends": ["q", "r"], "a": {"z": 3}}},
    }
    assert origin(tree, "e", ["a", "x"]) == "preset p"
    assert origin(tree, "e", ["a", "y"]) == "preset q"
    assert origin(tree, "f", ["a", "y"]) == "preset p"
    assert origin(tree, "f", ["a", "z"]) is None
    assert origin(tree, "f", ["a", "w"]) is None
    assert origin(tree, "no such experiment", ["a"]) is None


def test_origin_is_quick_where_many_paths_lead_to_a_preset() -> None:
    presets = {"a0": {}, "b0": {}}
    for level in range(1, 60):
        parents = [f"a{level - 1}", f"b{level - 1}"]
        presets |= {f"{name}{level}": {"extends": parents} for name in "ab"}
    tree = {"presets": presets, "experiments": {"e": {"extends": "a59"}}}
    assert resolve(tree, "params.yaml")["experiments"] == {"e": {}}
    assert origin(tree, "e", ["x"]) is None


def test_experiments_that_inherit_too_much_are_refused() -> None:
    tree = extended({})
    tree["presets"]["long"] = {"task": {"network": {"arguments": {"text": "x" * 1_000_000}}}}
    tree["experiments"] |= {f"e{index}": {"extends": "long"} for index in range(11)}
    with pytest.raises(UserError, match=r"^params\.yaml: experiments: `extends` inherits too much; remove some"):
        check_params(tree)
