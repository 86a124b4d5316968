"""Prompts of images: folders of pictures, and arrays in Python; each fault is one line."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rpg
from rpg.cli import main
from rpg.data.digits import load_digits_images
from rpg.generator.packed import read_packed
from rpg.generator.prompt_images import ImageForm, ImagePrompt, given_prompt, read_picture, read_prompt
from rpg.generator.trained import TrainedRPG
from rpg.tasks.loading import load_task
from rpg.training.prompts import MOST
from rpg.utils.errors import UserError

GRAY, COLOR = ImageForm((1, 8, 8), 16), ImageForm((3, 4, 6), 255)


def picture(path: Path, level: int = 255, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level,) * len(mode)).save(path)
    return path


def pictures(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(folder / name / f"{index:05d}.png", 255 if name == "yes" else 0)
    return folder


def test_a_folder_for_each_answer(tmp_path: Path) -> None:
    prompt, lines = read_prompt(pictures(tmp_path / "shown", yes=2, no=3), GRAY)
    assert (prompt.images.shape, prompt.images.dtype, lines) == ((5, 1, 8, 8), torch.uint8, [])
    assert prompt.labels.tolist() == [0, 0, 0, 1, 1]
    assert prompt.images[prompt.labels == 1].unique().tolist() == [16]
    assert prompt.images[prompt.labels == 0].unique().tolist() == [0]


def test_folders_of_other_names(tmp_path: Path) -> None:
    prompt, lines = read_prompt(pictures(tmp_path / "shown", dogs=1, cats=2), GRAY)
    assert prompt.labels.tolist() == [0, 0, 1]
    assert lines == ["output 0 (no) is cats, output 1 (yes) is dogs"]


def test_a_picture_gets_size_and_channels_of_the_data(tmp_path: Path) -> None:
    half = np.zeros((16, 16), dtype=np.uint8)
    half[:, 8:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    expected = torch.zeros(1, 8, 8, dtype=torch.uint8)
    expected[..., 4:] = 16
    assert torch.equal(read_picture(tmp_path / "half.png", GRAY), expected)
    rgb = read_picture(tmp_path / "half.png", COLOR)
    assert rgb.shape == (3, 4, 6)
    assert rgb[:, :, 0].unique().tolist() == [0]
    assert rgb[:, :, 5].unique().tolist() == [255]
    # Pillow's gray of pure green is 0.587 of white.
    Image.new("RGB", (20, 30), (0, 255, 0)).save(tmp_path / "green.png")
    assert read_picture(tmp_path / "green.png", GRAY).unique().tolist() == [round(0.587 * 16)]
    # What is transparent is black, the digits' paper.
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png", GRAY).unique().tolist() == [0]


def test_pictures_of_sixteen_bits_keep_their_gray_levels(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png", GRAY).unique().tolist() == [8]


def test_many_pictures_are_drawn_by_the_seed(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "shown", yes=2, no=MOST + 10)
    for index, file in enumerate(sorted((folder / "no").iterdir())):
        picture(file, index)
    deep = ImageForm((1, 8, 8), 255)
    prompt, lines = read_prompt(folder, deep)
    assert len(prompt.labels) == MOST + 2
    assert lines == [f"no has {MOST + 10} pictures; RPG takes {MOST} of them, drawn by the seed"]
    assert len(prompt.images[:, 0, 0, 0].unique()) == MOST + 1
    again, other = read_prompt(folder, deep)[0], read_prompt(folder, deep, seed=1)[0]
    assert torch.equal(again.images, prompt.images)
    assert not torch.equal(other.images, prompt.images)


def truncated(path: Path) -> None:
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        (lambda folder: None, "no such folder; it needs two folders of pictures, no and yes"),
        (lambda folder: folder.mkdir(), "has 0 folders (none)"),
        (lambda folder: pictures(folder, yes=2), "has 1 folders (yes)"),
        (lambda folder: pictures(folder, a=1, b=1, c=1), "has 3 folders (a, b, c)"),
        (lambda folder: pictures(folder, yes=2, no=0), "no has no pictures"),
        (lambda folder: (pictures(folder, yes=1, no=1) / "no/x.txt").write_text("x"), "x.txt: not a picture"),
        (lambda folder: truncated(pictures(folder, yes=1, no=1) / "no/cut.png"), "cut.png: not a picture"),
    ],
)
def test_bad_folders_are_one_line(shown: Path, tmp_path: Path, monkeypatch, capsys, prepare, fault: str) -> None:
    monkeypatch.chdir(shown)
    prepare(tmp_path / "shown")
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--experiment", "shown", "--images", str(tmp_path / "shown"), "--out", "x.safetensors"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (np.zeros((4, 3, 8, 8)), [0, 0, 1, 1], "must be [n, 1, 8, 8] of 0 to 16, not [4, 3, 8, 8]"),
        (np.zeros((4, 1, 9, 8)), [0, 0, 1, 1], "must be [n, 1, 8, 8] of 0 to 16, not [4, 1, 9, 8]"),
        (np.full((4, 8, 8), 17), [0, 0, 1, 1], "not 17 to 17"),
        (np.full((4, 8, 8), np.nan), [0, 0, 1, 1], "of 0 to 16, not nan"),
        (np.full((4, 8, 8), -1), [0, 0, 1, 1], "not -1 to -1"),
        (np.zeros((4, 8, 8)), [1, 1, 1, 1], "0 for no and 1 for yes, with some images of each"),
        (np.zeros((4, 8, 8)), [0, 1, 2, 1], "0 for no and 1 for yes, with some images of each"),
        (np.zeros((4, 8, 8)), [0, 1], "labels: must be 4, one for each image, not 2"),
        (np.zeros((4, 8, 8)), None, "labels: must be 4, one for each image, not 0"),
        (np.zeros((0, 8, 8)), [], "with some images of each"),
        (["a.png", "b.png"], [0, 1], "must be numbers"),
    ],
)
def test_bad_arrays_are_one_line(images, labels, fault: str) -> None:
    with pytest.raises(UserError) as error:
        given_prompt(images, labels, GRAY)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_and_tensors() -> None:
    images = torch.arange(4)[:, None, None].expand(4, 8, 8)
    for given in (images, images.numpy(), images.unsqueeze(1).float()):
        prompt = given_prompt(given, [True, False, 1, 0], GRAY)
        assert prompt.labels.tolist() == [0, 0, 1, 1]
        assert prompt.images[:, 0, 0, 0].tolist() == [1, 3, 0, 2]
    many = given_prompt(np.zeros((10_000, 8, 8)), [0] + [1] * 9_999, GRAY)
    assert (many.labels == 1).sum() == MOST
    assert (many.labels == 0).sum() == 1


def prompt_of(code: str, count: int) -> ImagePrompt:
    """The first images of the digits that answer the task of a code."""
    train = load_digits_images().train
    sides = torch.tensor([int(bit) for bit in code])[train.labels]
    chosen = torch.cat([(sides == side).nonzero()[:count, 0] for side in (0, 1)])
    return ImagePrompt(train.images[chosen], sides[chosen])


def test_command_and_python_give_the_same_network(shown: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(shown)
    prompt = prompt_of("0100111010", 3)
    for index, (image, label) in enumerate(zip(prompt.images, prompt.labels.tolist(), strict=True)):
        # The gray levels 0 to 16, times 15.9375, are 0 to 255.
        path = tmp_path / "shown" / ("no", "yes")[label] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0].float() * 15.9375).round().to(torch.uint8).numpy()).save(path)
    out = tmp_path / "made.safetensors"
    main(["generate", "--experiment", "shown", "--images", str(tmp_path / "shown"), "--seed", "3", "--out", str(out)])
    assert "made.safetensors: state 0" in capsys.readouterr().out
    own = rpg.generate("shown", images=prompt.images, labels=prompt.labels, seed=3)
    made = load_file(out)
    assert all(torch.equal(own[name], made[name]) for name in own)
    # Other images give another network, in any order the same.
    swapped = rpg.generate("shown", images=prompt.images, labels=1 - prompt.labels, seed=3)
    assert not torch.equal(own["fc.weight"], swapped["fc.weight"])
    turned = rpg.generate("shown", images=prompt.images.flip(0), labels=prompt.labels.flip(0), seed=3)
    torch.testing.assert_close(turned["fc.weight"], own["fc.weight"])
    task = load_task(TrainedRPG.of_experiment("shown").task, None)
    task.network.load_state_dict(own)


def test_a_packed_generator_takes_images_without_its_zoo(shown: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(shown)
    prompt = prompt_of("0100111010", 2)
    own = rpg.generate("shown", images=prompt.images, labels=prompt.labels, seed=5)
    main(["pack", "--experiment", "shown", "--out", str(tmp_path / "packed")])
    assert not (tmp_path / "packed/model.onnx").exists()
    monkeypatch.chdir(tmp_path)
    packed = read_packed(tmp_path / "packed")
    assert packed.vocabulary() == {"permutation_state": 1, "images": (1, 8, 8)}
    generator = rpg.Generator.from_pretrained(tmp_path / "packed")
    made = generator.generate(images=prompt.images, labels=prompt.labels, seed=5)
    assert all(torch.equal(own[name], made[name]) for name in own)


def test_images_and_models_must_fit(shown: Path, tasks: Path, packed_graph: Path, tmp_path: Path, monkeypatch) -> None:
    prompt = prompt_of("0100111010", 2)
    monkeypatch.chdir(tasks)
    with pytest.raises(UserError, match="was not trained on images"):
        rpg.generate("tasks", images=prompt.images, labels=prompt.labels)
    monkeypatch.chdir(shown)
    with pytest.raises(UserError, match="needs images of the task: add --images FOLDER"):
        rpg.generate("shown")
    with pytest.raises(UserError, match="was not trained on task codes"):
        rpg.generate("shown", code="0100111010", images=prompt.images, labels=prompt.labels)
    folder = pictures(tmp_path / "shown", yes=1, no=1)
    with pytest.raises(SystemExit):
        main(["generate", "--generator", str(packed_graph), "--images", str(folder), "--out", "x.safetensors"])


def test_a_picture_that_claims_a_billion_pixels(tmp_path: Path) -> None:
    """Pillow refuses it; the claim alone stands in the header."""
    file = picture(tmp_path / "large.bmp")
    content = bytearray(file.read_bytes())
    content[18:26] = struct.pack("<ii", 40_000, 40_000)
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a picture"):
        read_picture(file, GRAY)
