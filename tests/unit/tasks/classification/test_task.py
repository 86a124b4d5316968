import torch
from conftest import MINIATURE, TASKS
from torch.optim.swa_utils import update_bn

from rpg.tasks.classification.config import ClassificationBase, ClassificationTask, ClassificationZoo, TaskCodes
from rpg.tasks.classification.task import Classification, _batches, _shift
from rpg.tasks.config import Run
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, stack

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
    task = load_task(TASKS_TASK, None)
    labels = task.data.test.labels
    assert task.majority("1000000000") == 100 * (labels != 0).double().mean().item()
    assert task.majority("0111111111") == 100 * (labels != 0).double().mean().item()


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


def test_recounted_loss_ignores_what_the_weights_have_counted() -> None:
    task = load_task(TASKS_TASK, None)
    weights = stack([task.network.state_dict()] * 2)
    other = {name: tensor + 1 if "running" in name else tensor for name, tensor in weights.items()}

    def loss(of: dict[str, torch.Tensor], recounted: bool) -> torch.Tensor:
        return task.losses(of, CODES[:2], 16, torch.Generator().manual_seed(0), recounted)

    torch.testing.assert_close(loss(other, True), loss(weights, True))
    assert not torch.allclose(loss(other, False), loss(weights, False))
    assert not task.network.training


def test_recount_is_mean_and_variance_of_the_training_images() -> None:
    task = load_task(TASKS_TASK, None)
    torch.manual_seed(0)
    network = task.build()
    state_dict = network.state_dict()
    # The network is first built where no gradient is wanted.
    task.score(state_dict, "validation", CODES[0])
    (recounted,) = task.recount([state_dict])
    learned = [name for name, _ in task.network.named_parameters()]
    assert all(torch.equal(recounted[name], state_dict[name]) for name in learned)
    first = next(name for name in recounted if name.endswith("running_mean"))
    with torch.no_grad():
        before = network.conv1[:1](task.data.inputs(task.data.train.images, 8))
    torch.testing.assert_close(recounted[first], before.mean((0, 2, 3)), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(recounted[first.replace("mean", "var")], before.var((0, 2, 3)), rtol=0.02, atol=1e-3)
    assert not task.network.training


def test_networks_recounted_together_are_what_torch_s_update_bn_makes_of_each() -> None:
    task = load_task(TASKS_TASK, None)
    torch.manual_seed(0)
    networks = [task.build() for _ in range(3)]
    found = task.recount([network.state_dict() for network in networks])
    images = task.data.inputs(task.data.train.images, TASKS_TASK.resolution)[:2000]
    for network, recounted in zip(networks, found, strict=True):
        update_bn(images.chunk(8), network)
        torch.testing.assert_close(recounted, dict(network.state_dict()), rtol=1e-4, atol=1e-6)
