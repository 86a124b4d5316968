from pathlib import Path

import pytest
import torch
from conftest import MINIATURE, TASKS
from pydantic import ValidationError
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from rpg.config.loading import load_params
from rpg.tasks.classification.config import ClassificationBase, ClassificationTask, ClassificationZoo, TaskCodes
from rpg.tasks.classification.task import Classification, _batches, _shift
from rpg.tasks.config import Run
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, logits, stack, unstack
from rpg.tokenizer.store import TokenStore

TASK = ClassificationTask.model_validate(MINIATURE["task"])
ZOO = ClassificationZoo.model_validate(MINIATURE["zoo"])
TASKS_TASK = TaskCodes.model_validate(TASKS["task"])


def runs(seed: int, *codes: str) -> list[Run]:
    return [Run(seed=seed, code=code, held_out=False) for code in codes or [None]]


def saves_of(
    task: Classification, zoo: ClassificationZoo, wanted: list[Run], base: StateDict | None = None
) -> list[tuple[int, list[StateDict]]]:
    saves = []
    task.train(zoo, wanted, [base] * len(wanted), lambda step, state_dicts: saves.append((step, state_dicts)))
    return saves


def first_save(task: Classification, wanted: list[Run]) -> StateDict:
    return saves_of(task, ZOO, wanted)[0][1][0]


def test_training_learns_and_saves_where_params_say() -> None:
    task = load_task(TASK, None)
    zoo = ZOO.model_copy(update={"steps": 300, "shift": 0})
    saves = saves_of(task, zoo, runs(0))
    assert [step for step, _ in saves] == [302, 304]
    # Guessing has 10; three seeds have 75 to 96.
    assert task.score(saves[-1][1][0], "train") > 50
    assert not torch.equal(saves[0][1][0]["fc.weight"], saves[1][1][0]["fc.weight"])


def test_seeds_differ_in_weights_and_repeat() -> None:
    task = load_task(TASK, None)
    first, again, other = (first_save(task, runs(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_training_reads_the_train_split_alone() -> None:
    """Other pixels in validation and test change no weight."""
    task, blind = load_task(TASK, None), load_task(TASK, None)
    blind.data.validation.images.zero_()
    blind.data.test.images.zero_()
    a, b = first_save(task, runs(0)), first_save(blind, runs(0))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_batches_see_each_image_once_per_epoch() -> None:
    batches = _batches(10, 3, torch.Generator().manual_seed(0))
    epochs = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_shift_moves_by_at_most_its_pixels_over_background() -> None:
    images = torch.zeros(500, 1, 5, 5)
    images[:, :, 2, 2] = 1
    shifted = _shift(images, 1, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    assert (shifted.sum((1, 2, 3)) == 1).all()
    counts = shifted.sum((0, 1))
    assert counts.sum() == 500
    assert (counts[1:4, 1:4] > 30).all()
    assert torch.equal(_shift(images, 0, torch.Generator()), images)


CODES = ["0101010101", "1000000000", "0011111111"]


def test_networks_trained_together_are_those_trained_alone() -> None:
    """The stack's oracle: one network after another, with the optimizer over that network's tensors alone."""
    task = load_task(TASKS_TASK, None)
    zoo = ZOO.model_copy(update={"steps": 15, "saves": 1, "focal_gamma": 2.0, "label_smoothing": 0.1})
    ((_, together),) = saves_of(task, zoo, runs(3, *CODES))
    for code, one in zip(CODES, together, strict=True):
        ((_, (alone,)),) = saves_of(task, zoo, runs(3, code))
        for name, tensor in alone.items():
            torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{code} {name}")
    assert not torch.allclose(together[0]["fc.weight"], together[1]["fc.weight"], atol=1e-3)


def test_seeds_trained_together_are_those_trained_alone() -> None:
    """Each has the weights, the batches and the shifts of its own seed, and its own base."""
    task = load_task(TASK, None)
    zoo = ZOO.model_copy(update={"steps": 4, "saves": 2, "save_every": 2})
    bases = {seed: first_save(task, runs(seed)) for seed in (7, 8)}
    wanted = [*runs(3), *runs(4), *runs(3)]
    for given in ([None] * 3, [bases[7], bases[8], bases[7]]):
        saves: list[tuple[int, list[StateDict]]] = []
        task.train(zoo, wanted, given, lambda step, state_dicts, saves=saves: saves.append((step, state_dicts)))
        assert [step for step, _ in saves] == [6, 8]
        for index, (run, base) in enumerate(zip(wanted, given, strict=True)):
            for (_, together), (_, (alone,)) in zip(saves, saves_of(task, zoo, [run], base), strict=True):
                for name, tensor in alone.items():
                    # Less than one step of a weight whose gradient is nothing but rounding.
                    torch.testing.assert_close(together[index][name], tensor, rtol=1e-3, atol=1e-3)


def test_networks_judged_together_are_those_judged_alone() -> None:
    task = load_task(TASKS_TASK, None)
    networks = [task.build().state_dict() for _ in CODES]
    found = task.judge_all(networks, "validation", CODES)
    for one, network, code in zip(found, networks, CODES, strict=True):
        alone = task.judge(network, "validation", code)
        assert one.scores == alone.scores
        assert torch.equal(one.answers, alone.answers)
    assert len({one.scores["top1"] for one in found}) > 1


def test_label_of_an_image_is_the_code_s_bit() -> None:
    task = load_task(TASKS_TASK, None)
    labels = torch.tensor([0, 1, 9, 3])
    assert task.labels(labels.expand(3, -1), CODES).tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]]
    assert load_task(TASK, None).labels(labels[None], [None]).tolist() == [[0, 1, 9, 3]]


def test_focal_loss_by_hand() -> None:
    """(1 - p)^γ · -log p, and its mean over the images (Lin et al. 2017, equation 4)."""
    task = load_task(TASKS_TASK, None)
    weights = stack([task.network.state_dict()])
    images, labels = task.data.train.images[:7], task.data.train.labels[:7]
    loss = task._losses(task.network, weights, images, labels[None], [CODES[0]], focal_gamma=2.0)
    with torch.no_grad():
        found = task.network(task.data.inputs(images, 8)).softmax(1)
    p = found[torch.arange(7), task.labels(labels[None], [CODES[0]])[0]]
    torch.testing.assert_close(loss, ((1 - p) ** 2 * -p.log()).mean()[None])


def test_runs_start_from_the_base_network_but_for_its_head() -> None:
    task = load_task(TASKS_TASK, None)
    base = task.train_base(ClassificationBase.model_validate({**TASKS["base"], "steps": 5}), 5)
    zoo = ZOO.model_copy(update={"steps": 1, "saves": 1, "save_every": 1, "head_steps": 2, "learning_rate": 0.1})
    ((_, (moved,)),) = saves_of(task, zoo, runs(0, CODES[0]), base)
    learned = [name for name, _ in task.network.named_parameters()]
    assert base["fc.weight"].shape == (10, 8)
    assert moved["fc.weight"].shape == (2, 8)
    # Two steps in which only the head learns: its weights move, and no others.
    assert all(torch.equal(moved[name], base[name]) for name in learned if not name.startswith("fc"))
    ((_, (free,)),) = saves_of(task, zoo.model_copy(update={"head_steps": 0}), runs(0, CODES[0]), base)
    assert not any(torch.equal(free[name], base[name]) for name in learned if name.endswith("conv1.weight"))


def test_majority_class_by_hand() -> None:
    """The answer that is most frequent among the labels of the training images."""
    task = load_task(TASKS_TASK, None)
    for code in ("1000000000", "0111111111", *CODES):
        bits = [int(code[label]) for label in task.data.train.labels.tolist()]
        assert task.majority(code) == max((0, 1), key=bits.count)


def test_loss_of_generated_networks_is_differentiable_in_parameters_and_not_in_statistics() -> None:
    task = load_task(TASKS_TASK, None)
    weights = {name: tensor.clone().float() for name, tensor in stack([task.network.state_dict()] * 2).items()}
    for tensor in weights.values():
        tensor.requires_grad_()
    losses = task.losses(weights, CODES[:2], 16, torch.Generator().manual_seed(0))
    assert losses.shape == (2,)
    losses.sum().backward()
    learned = {name for name, _ in task.network.named_parameters()}
    assert {name for name, tensor in weights.items() if tensor.grad is not None} == learned


def plain(state_dict: StateDict, images: torch.Tensor, training: bool) -> tuple[torch.Tensor, StateDict]:
    """The outputs of one network, and its state dict after them: in training, BatchNorm's statistics of the images."""
    network = load_task(TASKS_TASK, None).build().train(training)
    network.load_state_dict(state_dict)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The statistics of the last batch alone.
            module.momentum = 1.0
    with torch.no_grad():
        return network(images), dict(network.state_dict())


def batch_of(task: Classification, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that `losses` draws with this seed, and their labels."""
    train = task.data.train
    batch = torch.randint(len(train.labels), (count,), generator=torch.Generator().manual_seed(seed))
    return task.data.inputs(train.images[batch], 8), train.labels[batch]


def random_networks(task: Classification, count: int, seed: int = 0) -> list[StateDict]:
    """New networks with running statistics that are not those of any images."""
    torch.manual_seed(seed)
    networks = [task.build().state_dict() for _ in range(count)]
    for network in networks:
        for name, tensor in network.items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
    return networks


@pytest.mark.parametrize("count", [1, 2])
def test_loss_beside_teachers_is_the_divergence_from_their_outputs(count: int) -> None:
    """sum p (log p - log q) over the classes, p a teacher's probabilities, q the network's; the mean over images."""
    task = load_task(TASKS_TASK, None)
    students, teachers = random_networks(task, count), random_networks(task, count, seed=1)

    def losses(of: list[StateDict], statistics: float | None = None) -> torch.Tensor:
        draw = torch.Generator().manual_seed(3)
        return task.losses(stack(of), CODES[:count], 16, draw, statistics, stack(teachers))

    images, _ = batch_of(task, 16, 3)
    expected = []
    for student, teacher in zip(students, teachers, strict=True):
        q, p = (plain(one, images, training=False)[0].double().softmax(1) for one in (student, teacher))
        expected.append((p * (p.log() - q.log())).sum(1).mean())
    found = losses(students)
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert (found > 0).all()
    torch.testing.assert_close(losses(teachers), torch.zeros(count), rtol=0, atol=1e-6)
    # The teachers answer with their own statistics, whatever the students use.
    counted = [plain(student, images, training=True)[0].double().softmax(1) for student in students]
    shares = [plain(teacher, images, training=False)[0].double().softmax(1) for teacher in teachers]
    expected = [(p * (p.log() - q.log())).sum(1).mean() for p, q in zip(shares, counted, strict=True)]
    torch.testing.assert_close(losses(students, 0.0).double(), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_loss_beside_teachers_reads_no_labels() -> None:
    task, blind = load_task(TASKS_TASK, None), load_task(TASKS_TASK, None)
    blind.data.train.labels.copy_((blind.data.train.labels + 1) % 10)
    weights, teachers = stack(random_networks(task, 2)), stack(random_networks(task, 2, seed=1))

    def losses(of: Classification, beside: StateDict | None) -> torch.Tensor:
        return of.losses(weights, CODES[:2], 16, torch.Generator().manual_seed(3), 1.0, beside)

    assert torch.equal(losses(task, teachers), losses(blind, teachers))
    assert not torch.equal(losses(task, None), losses(blind, None))


@pytest.mark.parametrize("count", [1, 3])
def test_loss_with_statistics_of_the_images_by_hand(count: int) -> None:
    """Cross-entropy under the images' statistics; plus, weighted, how far the network's own ones are from these."""
    task = load_task(TASKS_TASK, None)
    networks = random_networks(task, count)

    def losses(statistics: float | None) -> torch.Tensor:
        return task.losses(stack(networks), CODES[:count], 16, torch.Generator().manual_seed(3), statistics)

    images, classes = batch_of(task, 16, 3)
    entropies, penalties = [], []
    for network, code in zip(networks, CODES, strict=False):
        outputs, after = plain(network, images, training=True)
        bits = torch.tensor([int(code[label]) for label in classes])
        entropies.append(-outputs.log_softmax(1)[torch.arange(16), bits].mean())
        layers = []
        for name in (name.removesuffix("running_var") for name in network if name.endswith("running_var")):
            means, variances = (
                [one[f"{name}{kind}"] for one in (network, after)] for kind in ("running_mean", "running_var")
            )
            shift = (means[0] - means[1]) ** 2 / (variances[1] + 1e-5)
            ratio = ((variances[0] + 1e-5) / (variances[1] + 1e-5)).log() ** 2
            layers.append((shift + ratio).mean())
        penalties.append(torch.stack(layers).mean())
    entropies_E, penalties_E = torch.stack(entropies), torch.stack(penalties)
    assert (penalties_E > 0.1).all()
    torch.testing.assert_close(losses(0.0), entropies_E, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses(0.5), entropies_E + 0.5 * penalties_E, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(losses(None), entropies_E, rtol=1e-2)


def test_statistics_learn_where_the_loss_compares_them_and_stay_as_they_are() -> None:
    task = load_task(TASKS_TASK, None)
    networks = stack(random_networks(task, 2))
    weights = {
        name: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in networks.items()
    }
    draw = torch.Generator().manual_seed(0)
    task.losses(weights, CODES[:2], 16, draw, 1.0).sum().backward()
    statistics = {name for name in weights if "running" in name}
    assert all(weights[name].grad.any() for name in statistics)
    learned = {name for name, tensor in weights.items() if tensor.grad is not None}
    assert learned == statistics | {name for name, _ in task.network.named_parameters()}
    # Nothing was counted into the weights, and the network that scores stays in evaluation mode.
    assert all(torch.equal(weights[name], networks[name]) for name in networks)
    assert not task.network.training


def test_statistics_of_tokens_learn_too(tasks: Path) -> None:
    """The weights of `detokenize` are views in the tokens, with strides of their own."""
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    task, store = load_task(experiment.task, None), TokenStore(tasks / "results/tasks/tokens")
    states = torch.tensor([store.state(entry) for entry in store.checkpoints[:2]])
    tokens_BLD = torch.stack([store[0], store[1]]).nan_to_num(0)
    weights = store.detokenize(tokens_BLD, states)
    alone = [{name: tensor[e].clone() for name, tensor in weights.items()} for e in range(2)]

    def penalty(of: StateDict) -> torch.Tensor:
        with_it, without = (
            task.losses(of, CODES[:2], 16, torch.Generator().manual_seed(3), statistics) for statistics in (1.0, 0.0)
        )
        return with_it - without

    found = penalty(weights)
    assert (found > 1e-3).all()
    torch.testing.assert_close(found, penalty(stack(alone)))


def test_recount_is_mean_and_variance_of_the_training_images() -> None:
    task = load_task(TASKS_TASK, None)
    torch.manual_seed(0)
    network = task.build()
    state_dict = network.state_dict()
    # The network is first built where no gradient is wanted.
    task.score(state_dict, "validation", CODES[0])
    (recounted,) = task.recount([state_dict], [None])
    learned = [name for name, _ in task.network.named_parameters()]
    assert all(torch.equal(recounted[name], state_dict[name]) for name in learned)
    first = next(name for name in recounted if name.endswith("running_mean"))
    with torch.no_grad():
        before = network.conv1[:1](task.data.inputs(task.data.train.images[:500], 8))
    torch.testing.assert_close(recounted[first], before.mean((0, 2, 3)), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(recounted[first.replace("mean", "var")], before.var((0, 2, 3)), rtol=0.02, atol=1e-3)
    assert not task.network.training


def test_networks_recounted_together_are_what_torch_s_update_bn_makes_of_each() -> None:
    task = load_task(TASKS_TASK, None)
    torch.manual_seed(0)
    networks = [task.build() for _ in range(3)]
    found = task.recount([network.state_dict() for network in networks], [None] * len(networks))
    images = task.data.inputs(task.data.train.images, TASKS_TASK.resolution)[:500]
    for network, recounted in zip(networks, found, strict=True):
        update_bn(images.chunk(2), network)
        torch.testing.assert_close(recounted, dict(network.state_dict()), rtol=1e-4, atol=1e-6)


def test_loss_of_wanted_scores_by_hand() -> None:
    """The squared distance of the accuracy on the drawn images from the wanted one; its gradient lowers it."""
    task = load_task(TASKS_TASK, None)
    weights = {name: tensor.float() for name, tensor in stack(random_networks(task, 2)).items()}
    images, labels = batch_of(task, 64, 5)
    right = []
    for network, code in zip(unstack(weights), CODES, strict=False):
        bits = torch.tensor([int(code[label]) for label in labels.tolist()])
        right.append((plain(network, images, training=False)[0].argmax(1) == bits).double().mean().item())
    wanted = torch.tensor([100 * right[0] - 10, 100 * right[1] + 20])

    def losses(of: StateDict) -> torch.Tensor:
        return task.score_losses(of, wanted, CODES[:2], 64, torch.Generator().manual_seed(5))

    torch.testing.assert_close(losses(weights), torch.tensor([100 * 0.1**2, 100 * 0.2**2]), rtol=1e-3, atol=1e-4)
    head = weights["fc.bias"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses({**weights, "fc.bias": head}).sum(), head)
    assert (gradient != 0).any(1).all()


def test_early_saves_are_those_of_the_schedule() -> None:
    task = load_task(TASKS_TASK, None)
    saves = saves_of(task, ZOO.model_copy(update={"steps": 4, "saves": 1, "save_every": 1}), runs(0, CODES[0]))
    early = ZOO.model_copy(update={"steps": 4, "saves": 1, "save_every": 1, "early": [1, 3]})
    found = saves_of(task, early, runs(0, CODES[0]))
    assert [step for step, _ in found] == [1, 3, 5]
    assert all(torch.equal(of, saves[-1][1][0][name]) for name, of in found[-1][1][0].items())
    run = runs(0, CODES[0])[0]
    held_out = early.model_copy(update={"early_held_out": [0]})
    assert [held_out.holds_out(run, step) for step in (1, 3, 5)] == [True, True, False]
    assert not early.holds_out(run, 1)
    assert (held_out.run_facts(run), early.run_facts(run)) == ({"early_held_out": True}, {})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"early": [3, 3]}, "early: must be increasing steps below steps"),
        ({"early": [10_000]}, "early: must be increasing steps below steps"),
        ({"early_held_out": [0]}, "early_held_out: needs early"),
        ({"early": [1], "early_held_out": [99]}, "early_held_out: must name some of seeds"),
    ],
)
def test_early_saves_that_do_not_fit(changes: dict, fault: str) -> None:
    tree = {**ZOO.model_dump(), "seeds": [0, 1], **changes}
    with pytest.raises(ValidationError, match=fault):
        ClassificationZoo.model_validate(tree)


def test_a_loss_leaves_out_classes_with_a_dash(tasks: Path) -> None:
    task = load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)
    weights = stack(random_networks(task, 2))
    codes = ["01001--010", "0100111010"]
    losses = task.losses(weights, codes, 64, torch.Generator().manual_seed(3))
    batch = torch.randint(len(task.data.train.labels), (64,), generator=torch.Generator().manual_seed(3))
    inputs, classes = task.inputs("train")[batch], task.data.train.labels[batch]
    for index, code in enumerate(codes):
        kept = torch.tensor([code[label] != "-" for label in classes.tolist()])
        answers = torch.tensor([int(code[label]) for label in classes[kept].tolist()])
        outputs = logits(task.network, {name: of[index : index + 1] for name, of in weights.items()}, inputs[kept])[0]
        torch.testing.assert_close(losses[index], functional.cross_entropy(outputs, answers), atol=1e-5, rtol=1e-4)


def test_hidden_classes_are_in_no_split(tasks: Path) -> None:
    block = load_params(tasks / "params.yaml").experiment("tasks").task
    hiding = load_task(block.model_copy(update={"hidden": [8, 9], "held_out": [32]}), None)
    whole = load_task(block, None)
    for split in ("train", "validation", "test"):
        images, classes = hiding.labeled_images(split)
        assert {*classes.tolist()} == {*range(8)}
        every, of_every = whole.labeled_images(split)
        assert torch.equal(images, every[of_every < 8])
    other = hiding.on("hidden")
    images, classes = other.labeled_images("test")
    assert {*classes.tolist()} == {8, 9}
    # Hidden classes are standardized by the visible ones' pixels, as the networks see images.
    std, mean = hiding.data.train_std_mean
    torch.testing.assert_close(other.inputs("test"), ((images - mean) / std).float())
    assert hiding.prompted_codes("hidden") == ["0000000010", "0000000001"]
    assert hiding.prompted_codes("own") == ["0000100000"]
    # A network that always answers yes is right for one of the two classes.
    network = random_networks(hiding, 1)[0]
    network["fc.weight"].zero_()
    network["fc.bias"].copy_(torch.tensor([0.0, 1.0]))
    share = 100 * float((classes == 8).double().mean())
    assert other.score(network, "test", "0000000010") == pytest.approx(share)
