import copy
import json
from pathlib import Path

import pytest
import yaml
from conftest import ADAPTERS, GIVEN, MINIATURE, PAPER, ROOT, SCENES, SETTINGS, TASKS

from rpg.config.experiment import parse_experiment
from rpg.config.loading import FORBIDDEN_KEYS, check_params, json_schema, load_params
from rpg.config.resolved import resolved_yaml
from rpg.paths import paths_of
from rpg.tasks.registry import task_blocks
from rpg.utils import task_codes
from rpg.utils.errors import UserError


def tree() -> dict:
    experiments = {"mini": copy.deepcopy(MINIATURE)}
    return {**SETTINGS, "run": ["mini"], "experiments": experiments}


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


def fault_of(experiment: dict, change) -> str:
    """The line that `change` to the good `experiment` leads to, without the experiment's name."""
    changed = {**SETTINGS, "run": ["x"], "experiments": {"x": copy.deepcopy(experiment)}}
    change(changed["experiments"]["x"])
    with pytest.raises(UserError) as error:
        check_params(changed)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("params.yaml: experiments.x.")
    return line.removeprefix("params.yaml: experiments.x.")


def mini(changed: dict) -> dict:
    return changed["experiments"]["mini"]


def test_shipped_params_are_read() -> None:
    params = load_params(ROOT / "params.yaml")
    plain = ["digits-resnet", "digits-vit", "digits-convnext"]
    later = ["scenes-upernet", "scenes-vitdet", "facts-dora-r4", "facts-dora-r16"]
    assert params.run == [*plain, "digits-tasks", *later]
    for name in plain:
        zoo = params.experiment(name).zoo
        assert len(zoo.seeds) >= 5
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
    assert line.startswith(f"experiments.mini.task.network.arguments.deep.0.{key}: the key '{key}' is not allowed")


def test_misspelt_key_is_named_with_the_one_meant() -> None:
    line = fault(lambda t: mini(t)["train"].update(stesp=mini(t)["train"].pop("steps")))
    assert line == "experiments.mini.train.steps: missing; is 'stesp' meant?"


def test_unknown_key_is_named() -> None:
    assert fault(lambda t: mini(t)["train"].update(momentum=0.9)) == "experiments.mini.train.momentum: unknown key"


@pytest.mark.parametrize("part", ["backbone", "denoiser"])
def test_unknown_key_of_a_backbone_or_denoiser_is_named_without_its_kind(part: str) -> None:
    line = fault(lambda t: mini(t)["model"][part].update(layers=2))
    assert line == f"experiments.mini.model.{part}.layers: unknown key"


@pytest.mark.parametrize(
    ("part", "kinds"),
    [
        ("backbone", "'paper', 'mamba2', 'lstm', 'transformer', 'mlp'"),
        ("denoiser", "'convolution', 'mlp', 'none'"),
    ],
)
def test_unknown_backbone_or_denoiser_is_named_with_those_that_exist(part: str, kinds: str) -> None:
    line = fault(lambda t: mini(t)["model"][part].update(kind="new"))
    assert line.startswith(f"experiments.mini.model.{part}: ")
    assert kinds in line


def test_every_backbone_goes_with_every_denoiser() -> None:
    for backbone, denoiser in ((PAPER, MINIATURE["model"]), (MINIATURE["model"], PAPER)):
        changed = tree()
        parts = {"backbone": backbone["backbone"], "denoiser": denoiser["denoiser"]}
        mini(changed)["model"] |= parts
        model = check_params(changed).experiment("mini").model
        assert model.model_dump() == {**MINIATURE["model"], **parts}


@pytest.mark.parametrize("value", ["40", 40.5, True, None, [40]])
def test_wrong_type_is_named_with_the_value(value: object) -> None:
    line = fault(lambda t: mini(t)["train"].update(steps=value))
    assert line == f"experiments.mini.train.steps: input should be a valid integer, not {json.dumps(value)}"


def test_value_out_of_range_is_named() -> None:
    line = fault(lambda t: mini(t)["sample"].update(steps=1001))
    assert line == "experiments.mini.sample.steps: input should be less than or equal to 1000, not 1001"


def test_cluster_names_stages() -> None:
    allotment = {"memory_gb": 64, "hours": 24}
    line = fault(lambda t: mini(t).update(cluster={"training": allotment}))
    assert line.startswith("experiments.mini.cluster.training")
    assert "'train'" in line
    line = fault(lambda t: mini(t).update(cluster={"train": {**allotment, "hours": 0}}))
    assert line == "experiments.mini.cluster.train.hours: input should be greater than 0, not 0"


@pytest.mark.parametrize("channels", [[1, 4, 4, 1], [1, 4, 6, 8, 1], [1, 4, 6, 6, 4, 1], [2, 4, 6, 4, 2]])
def test_channels_that_the_skips_do_not_fit_are_refused(channels: list[int]) -> None:
    denoiser = {"kind": "convolution", "channels": channels, "kernel": 7}
    line = fault(lambda t: mini(t)["model"].update(denoiser=denoiser))
    assert line.startswith("experiments.mini.model.denoiser")
    assert "channels" in line


def test_a_seed_twice_is_refused() -> None:
    assert "a seed is listed twice; remove one" in fault(lambda t: mini(t)["zoo"].update(seeds=[1, 1]))


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
    with pytest.raises(UserError, match="duplicate key 'ema'"):
        load_params(path)
    path.write_text("run: [mini]\ndata_root: null\nlanguage_model: null\nexperiments: {}\nablations: {}\n")
    with pytest.raises(UserError, match="run: no experiment 'mini'"):
        load_params(path)
    assert load_params(ROOT / "params.yaml").experiment("digits-vit-paper").train.ema == 0.0


def test_names_that_the_workflow_takes_for_wildcards_are_refused() -> None:
    whole = {**SETTINGS, "run": ["x"], "experiments": {"x": {**GIVEN, "zoo": {**GIVEN["zoo"], "runs": ["zoo/{a}"]}}}}
    with pytest.raises(UserError, match=r"experiments.x.zoo.runs.0: string should match pattern"):
        check_params(whole)


@pytest.mark.parametrize("name", ["../x", "", "A"])
@pytest.mark.parametrize("value", [[], {}, None])
def test_names_that_are_refused_with_whatever_they_name(name: str, value: object) -> None:
    assert "string should match pattern" in fault(lambda t: t.update(ablations={name: value}))


@pytest.mark.parametrize("text", ["2001-01-01", "!!set {a}", ".inf", ".nan", "!!binary aGk="])
def test_what_json_does_not_know_is_named(tmp_path, text: str) -> None:
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree).replace("in_chans: 1", f"in_chans: {text}"))
    with pytest.raises(UserError, match=r"task.network.arguments.in_chans: .* is not a valid value"):
        load_params(path)


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
        found = check_params(changed).experiment("mini").shards()
        return {name: [run.seed for run in runs] for name, runs in found.items()}

    assert shards(0, 1, 3) == {"0000-0001": [0, 1], "0002-0003": [3]}
    assert shards(0, 1, 3, 4) == {**shards(0, 1, 3), "0004-0005": [4]}
    assert shards(3, 1) == {"0000-0001": [1], "0002-0003": [3]}


@pytest.mark.parametrize(("text", "number"), [("1e-05", 1e-5), ("4e-3", 4e-3), ("0.002", 2e-3), ("2E-3", 2e-3)])
def test_floats_as_dvc_writes_them(tmp_path, text: str, number: float) -> None:
    """`dvc exp run -S ...=0.00001` writes 1e-05, which PyYAML alone reads as text."""
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}}
    whole = yaml.safe_dump(tree)
    assert "learning_rate: 0.003" in whole
    (tmp_path / "params.yaml").write_text(whole.replace("learning_rate: 0.003", f"learning_rate: {text}"))
    assert load_params(tmp_path / "params.yaml").experiment("mini").train.learning_rate == number


HELD_OUT = [314, 482, 589, 197, 462, 111, 101, 278, 793, 279, 653, 238, 1001, 141, 884, 592, 502, 643, 383, 128]


def test_shipped_experiments_with_task_codes() -> None:
    params = load_params(ROOT / "params.yaml")
    for name, seen, seeds in (
        ("digits-tasks", 150, 1),
        ("digits-tasks-seeds", 100, 3),
        ("cifar10-tasks-mini", 300, 1),
        ("cifar10-tasks", 982, 1),
    ):
        experiment = params.experiment(name)
        assert experiment.task.held_out == HELD_OUT
        assert [experiment.task.seen, len(experiment.zoo.seeds), experiment.sample.count] == [seen, seeds, 3]
        runs = experiment.runs().values()
        assert len(runs) == seeds * (seen + 20)
        held = {task_codes.of_number(number) for number in HELD_OUT}
        assert sum(run.held_out for run in runs) == 20 * seeds + experiment.task.held_out_pairs
        assert all(run.held_out for run in runs if run.code in held)


def test_held_out_pairs_leave_their_code_seen_in_other_states() -> None:
    runs = parse_experiment(TASKS).runs().values()
    held = {(run.seed, run.code) for run in runs if run.held_out}
    seen = {run.code for run in runs if not run.held_out}
    pairs = {pair for pair in held if pair[1] in seen}
    assert len(pairs) == 2
    assert {seed for seed, _ in pairs} == {0, 1}
    assert {code for _, code in held - pairs} == {task_codes.of_number(314), task_codes.of_number(482)}


def test_more_seen_codes_and_seeds_leave_the_other_shards_as_they_are() -> None:
    def shards(seen: int, *seeds: int) -> dict[str, list[str]]:
        task, zoo = {**TASKS["task"], "seen": seen}, {**TASKS["zoo"], "seeds": list(seeds), "runs_per_shard": 8}
        tree = {**TASKS, "task": task, "zoo": zoo, "base": None}
        found = parse_experiment(tree).shards()
        return {name: [f"{run.seed} {run.code}" for run in runs] for name, runs in found.items()}

    small, more, third = shards(6, 0, 1), shards(14, 0, 1), shards(6, 0, 1, 2)
    assert list(small) == ["0000-0007", "1024-1031"]
    assert all(more[name] == runs for name, runs in small.items())
    assert list(more) == ["0000-0007", "0008-0015", "1024-1031", "1032-1039"]
    assert {name: third[name] for name in small} == small


@pytest.mark.parametrize(
    ("block", "update", "fault"),
    [
        (
            "task",
            {"seen": 1019},
            "task.seen: only 1018 codes are neither held out nor the complement of a held-out code",
        ),
        ("task", {"held_out": [0]}, "task.held_out.0: input should be greater than or equal to 1, not 0"),
        ("task", {"held_out": [1023]}, "task.held_out.0: input should be less than or equal to 1022, not 1023"),
        ("task", {"held_out": [5, 5]}, "task.held_out: a code is listed twice; remove one"),
        ("task", {"held_out_pairs": 7}, "task.held_out_pairs: must be at most seen, 6"),
        ("zoo", {"seeds": [0]}, "task.held_out_pairs: needs two seeds or more in zoo.seeds"),
        ("base", {"seeds": [0, 1, 2]}, "base.seeds: must be one, or as many as zoo.seeds"),
        ("sample", {"seen": 7}, "sample.seen: must be from 1 to 6 with task codes"),
        ("sample", {"seen": None}, "sample.seen: must be from 1 to 6 with task codes"),
    ],
)
def test_task_codes_that_do_not_fit(block: str, update: dict, fault: str) -> None:
    assert fault_of(TASKS, lambda x: x[block].update(update)) == fault


@pytest.mark.parametrize("block", ["base", "hypernetwork"])
def test_stages_of_task_codes_need_them(block: str) -> None:
    line = fault_of(MINIATURE, lambda x: x.update({block: TASKS[block]}))
    assert line == f"{block}: task.kind classification has no such stage; remove the block"
    line = fault_of(
        MINIATURE, lambda x: x["model"].update(conditions=[{"kind": "task_code", "hidden": None, "reach": "all"}])
    )
    assert line == "model.conditions: task_code needs task.kind task_codes"


KINDS = ", ".join(task_blocks())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda x: x["task"].update(kind="clasification"),
            "no benchmark 'clasification'; did you mean 'classification'?",
        ),
        (lambda x: x["task"].update(kind=[3]), f"no benchmark '[3]'; known: {KINDS}"),
        (lambda x: x["task"].pop("kind"), f"missing; known: {KINDS}"),
        (lambda x: x.pop("task"), f"missing; known: {KINDS}"),
        (lambda x: x.update(task=3), f"missing; known: {KINDS}"),
    ],
)
def test_experiment_without_a_known_kind_of_task(change, fault: str) -> None:
    assert fault_of(MINIATURE, change) == f"task.kind: {fault}"


def test_start_from_the_mean_is_of_the_weights_alone() -> None:
    whole = tree()
    for model in (MINIATURE["model"], PAPER):
        mini(whole).update({"model": {**model, "start": "mean"}, "diffusion": {"target": "x0"}})
        assert check_params(whole).experiment("mini").model.start == "mean"
        mini(whole)["diffusion"] = {"target": "epsilon"}
        with pytest.raises(UserError, match=r"model\.start: mean needs diffusion\.target x0"):
            check_params(whole)


def test_networks_between_states_need_states() -> None:
    def faulty(**changes: dict) -> str:
        whole = tree()
        for block, values in changes.items():
            mini(whole)[block] = {**mini(whole).get(block, {}), **values}
        with pytest.raises(UserError) as fault:
            check_params(whole)
        return str(fault.value).removeprefix("params.yaml: experiments.mini.")

    tune = {**TASKS["tune"], "between": 0.5}
    unconditional = {"conditions": [{"kind": "unconditional"}]}
    for block, values in (("sample", {"between": 1}), ("tune", tune)):
        lines = [faulty(**{block: values}, **more) for more in ({"zoo": {"seeds": [3]}}, {"model": unconditional})]
        assert lines == [
            f"{block}.between: needs two seeds or more in zoo.seeds",
            f"{block}.between: needs the condition permutation_state",
        ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x["zoo"].pop("overrides"), "zoo.overrides: missing"),
        (lambda x: x.update(zoo=MINIATURE["zoo"]), "zoo.overrides: missing"),
        (lambda x: x["base"].update(seeds=[0, 1, 2]), "base.seeds: must be one, or as many as zoo.seeds"),
        (lambda x: x["task"].update(data="coco"), "task.data: input should be 'scenes' or 'ade20k', not \"coco\""),
        (
            lambda x: x["task"].update(validation=0),
            "task.validation: input should be greater than or equal to 1, not 0",
        ),
        (lambda x: x.update(tune=TASKS["tune"]), "tune: task.kind segmentation has no such stage; remove the block"),
        (
            lambda x: x.update(hypernetwork=TASKS["hypernetwork"]),
            "hypernetwork: task.kind segmentation has no such stage; remove the block",
        ),
        (lambda x: x["zoo"].update(seeds=[4, 4]), "zoo.seeds: a seed is listed twice; remove one, not [4, 4]"),
        (
            lambda x: x["novelty"].update(fine_tune={"steps": 1, "images": 1, "learning_rate": 0.1}),
            "novelty.fine_tune: task.kind segmentation has no differentiable loss; remove the block",
        ),
        (
            lambda x: x["task"]["overrides"].update(model={"size": 3}),
            "task.overrides.model.size: the key 'size' is not allowed, because DVC's run-cache ignores it;"
            " choose another name",
        ),
    ],
)
def test_segmentation_that_does_not_fit(change, fault: str) -> None:
    assert fault_of(SCENES, change) == fault


@pytest.mark.parametrize("block", ["model", "hypernetwork"])
def test_a_start_at_the_mean_predicts_weights(block: str) -> None:
    def change(experiment: dict) -> None:
        experiment["hypernetwork"]["start"] = "zero"
        experiment[block]["start"] = "mean"
        experiment["diffusion"]["target"] = "v"

    assert fault_of(TASKS, change) == f"{block}.start: mean needs diffusion.target x0"


def test_blocks_of_a_kind_need_its_tasks() -> None:
    """Which class a block has is decided by `task.kind`, not guessed from its keys."""
    assert fault_of(MINIATURE, lambda x: x.update(zoo=SCENES["zoo"])) == "zoo.together: missing"
    more = {**MINIATURE["zoo"], "overrides": {}}
    assert fault_of(MINIATURE, lambda x: x.update(zoo=more)) == "zoo.overrides: unknown key"
    assert fault_of(TASKS, lambda x: x.update(base=ADAPTERS["base"])) == "base.shift: missing"


@pytest.mark.parametrize(("shift", "fits"), [(2, True), (3, False), (28, False)])
def test_shift_is_a_part_of_the_image_before_it_is_resized(shift: int, fits: bool) -> None:
    """Images of the digits have 8 pixels, whatever `resolution` is."""
    for tree, block in ((MINIATURE, "zoo"), (TASKS, "zoo"), (TASKS, "base")):
        changed = {**tree, block: {**tree[block], "shift": shift}}
        if fits:
            check_params({**SETTINGS, "run": ["x"], "experiments": {"x": changed}})
            continue
        fault = fault_of(changed, lambda experiment: None)
        assert fault.startswith(f"{block}.shift: {shift} of 8 pixels")
        assert fault.endswith("at most 2")


def test_fine_tuning_needs_the_weights_that_it_starts_from() -> None:
    experiment = load_params(ROOT / "params.yaml").experiment("imagenet-resnet18").model_dump()
    line = fault_of(experiment, lambda x: x.update(base=None))
    assert line == "base: missing; task.kind fine_tuning needs it to name the weights that the zoo starts from"


def test_canonical_tokens_are_for_adapters() -> None:
    line = fault_of(MINIATURE, lambda x: x["tokens"].update(canonical=False))
    assert line == "tokens.canonical: is for adapters, not for task.kind classification"
    line = fault_of(ADAPTERS, lambda x: x["tokens"].pop("canonical"))
    assert line == "tokens.canonical: must be given with task.kind commonsense"


def test_the_check_of_a_block_is_named_by_its_key() -> None:
    line = fault_of(MINIATURE, lambda x: x["task"]["network"]["arguments"].update(pretrained=True))
    why = "pretrained would load weights; remove it, the zoo's networks start from their seed"
    assert line == f"task.network.arguments: {why}"
    assert (
        fault_of(GIVEN, lambda x: x["zoo"].update(runs=["a", "a/"])) == "zoo.runs: a folder is listed twice; remove one"
    )


def test_the_paper_s_segmentation_and_detection() -> None:
    params = load_params(ROOT / "params.yaml")
    for name, kind, data in (
        ("ade20k-upernet-vit_base", "segmentation", "ade20k"),
        ("coco-vitdet-vit_base", "detection", "coco"),
    ):
        experiment = params.experiment(name)
        assert (experiment.task.kind, experiment.task.data) == (kind, data)
        assert experiment.zoo.saves * len(experiment.zoo.seeds) == 50
        train = experiment.train
        assert [experiment.tokens.width, train.batch, train.steps, train.learning_rate] == [16384, 2, 120000, 1e-5]
        assert [train.diffusion_batch, experiment.model.denoiser.channels] == [512, [1, 64, 96, 64, 1]]
    for name in ("scenes-upernet", "scenes-vitdet", "facts-dora-r4", "facts-dora-r16"):
        experiment = params.experiment(name)
        assert len(experiment.zoo.seeds) >= 5
        assert experiment.zoo.saves >= 2
        assert experiment.sample.count == 10


def test_trial_s_seed_is_that_of_all_its_trainings(tmp_path: Path) -> None:
    """RPG, its tuning and its hypernetwork; the zoo and the samples keep theirs. An absent block stays absent."""
    ablations = {
        name: {"question": "", "experiment": name, "seeds": [0, 7], "novelty": False, "variants": {"plain": {}}}
        for name in ("tasks", "mini")
    }
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE, "tasks": TASKS}}
    tree["ablations"] = {f"why-{name}": ablation for name, ablation in ablations.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    params = load_params(tmp_path / "params.yaml")
    own, again = params.experiment("tasks"), params.experiment("why-tasks/plain-7")
    assert [getattr(again, block).seed for block in ("train", "tune", "hypernetwork")] == [7, 7, 7]
    assert again.zoo == own.zoo
    assert again.sample == own.sample
    assert params.experiment("why-tasks/plain-0") == own
    plain = params.experiment("why-mini/plain-7")
    assert (plain.train.seed, plain.tune, plain.hypernetwork) == (7, None, None)
    # As the resolved configuration says, too, and so that nothing of these three stages is shared.
    text = yaml.safe_load(resolved_yaml("again", again))
    assert [text[block]["seed"] for block in ("train", "tune", "hypernetwork")] == [7, 7, 7]
    paths = paths_of(params, "why-tasks/plain-7")
    homes = {stage: paths.home(stage).name for stage in ("zoo", "tokens", "train", "tune", "hypernetwork")}
    assert homes == {
        "zoo": "tasks",
        "tokens": "tasks",
        "train": "plain-7",
        "tune": "plain-7",
        "hypernetwork": "plain-7",
    }
