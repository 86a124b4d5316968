"""The page of `rpg demo`: its parts with Streamlit's own test driver, and all of it in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from conftest import ROOT
from PIL import Image
from safetensors.torch import load
from streamlit.testing.v1 import AppTest

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.tasks.loading import load_task

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HELD_OUT = "0100111010"


@pytest.fixture
def page(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page, freshly opened on the miniature with task codes."""
    monkeypatch.chdir(tasks)
    monkeypatch.setattr(sys, "argv", ["page.py", "tasks"])
    # Streamlit puts the page in its place, and child processes of later tests would run that.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return AppTest.from_file(ROOT / "rpg/demo/page.py", default_timeout=60).run()


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def generate(page: AppTest) -> AppTest:
    return page.button[0].click().run()


def test_opens_with_nothing_generated(page: AppTest) -> None:
    assert not page.exception
    assert page.title[0].value == "Generate a network"
    assert "networks for 6 of 1022 tasks" in page.markdown[0].value
    assert not page.metric


def test_classes_give_a_network_with_its_score(page: AppTest, tasks: Path) -> None:
    page = generate(page.multiselect[0].set_value(["1", "4", "5", "6", "8"]).run())
    assert not page.exception
    shown = metrics(page)
    assert (shown["task code"], shown["in the zoo"]) == (HELD_OUT, "held out")
    network = page.session_state.network
    task = load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)
    accuracy = task.score(network.state_dict, "test", HELD_OUT)
    assert shown["test accuracy"] == f"{accuracy:.1f} %"
    # The confusion table adds up to the same.
    rows = page.table[0].value
    right = rows.apply(
        lambda row: row["answers yes"] if row["correct answer"] == "yes" else row["answers no"], axis=1
    ).sum()
    assert 100 * right / rows[["answers yes", "answers no"]].to_numpy().sum() == pytest.approx(accuracy)
    assert list(rows["correct answer"]) == ["yes" if bit == "1" else "no" for bit in HELD_OUT]


def test_words_and_code_say_the_same(page: AppTest) -> None:
    page = page.radio[0].set_value("In words").run()
    assert metrics(generate(page))["task code"] == "1010101010"
    page = page.radio[0].set_value("Code").run()
    assert metrics(generate(page.text_input[0].set_value("1010101011").run()))["task code"] == "1010101011"


def test_another_image_asks_the_same_network(page: AppTest) -> None:
    page = generate(page)
    before = page.session_state.network
    page = next(field for field in page.number_input if field.label == "Test image").set_value(7).run()
    assert page.session_state.network is before
    assert any("The network answers" in text.value for text in page.markdown)


@pytest.mark.parametrize(
    ("way", "text", "fault"),
    [
        ("In words", "zebras", "'zebras' is not known for digits"),
        ("Code", "0000000000", "all bits are 0"),
        ("Code", "01", "must be 10 digits 0 or 1"),
    ],
)
def test_bad_input_is_said_and_no_old_network_stays(page: AppTest, way: str, text: str, fault: str) -> None:
    page = generate(page).radio[0].set_value(way).run()
    page = generate(page.text_input[0].set_value(text).run())
    assert fault in page.error[0].value
    assert not page.metric
    assert not page.exception


def test_an_experiment_without_tasks_is_refused(finished: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--experiment", "mini", "--no-browser"])
    assert stop.value.code == 2
    assert "the networks have no tasks to choose from" in capsys.readouterr().err


@contextmanager
def served(folder: Path, name: str) -> Iterator[str]:
    """Where `rpg demo` serves an experiment, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rpg", "demo", "--experiment", name, "--no-browser", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, start_new_session=True)
    try:
        for _ in range(120):
            try:
                urlopen(f"http://localhost:{port}/_stcore/health")
                break
            except URLError:
                assert server.poll() is None
                time.sleep(0.5)
        yield f"http://localhost:{port}"
    finally:
        # The whole group: Streamlit is a child of `rpg demo`.
        subprocess.run(["kill", "--", f"-{server.pid}"], check=False)
        server.wait(30)


@pytest.fixture
def address(tasks: Path) -> Iterator[str]:
    """Where `rpg demo` serves the miniature with task codes."""
    with served(tasks, "tasks") as address:
        yield address


@pytest.fixture
def address_for_images(shown: Path) -> Iterator[str]:
    """Where `rpg demo` serves the miniature that sees images."""
    with served(shown, "shown") as address:
        yield address


@contextmanager
def visited(address: str) -> "Iterator[Page]":
    """The page in a real browser, without an error of its scripts."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "this test needs a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        yield page
        assert not errors
        browser.close()


def draw_on(page: "Page", pad: "Locator") -> None:
    """Draw a line from top to bottom."""
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 3 * box["height"] / 4, steps=10)
    page.mouse.up()


@pytest.mark.integration
def test_images_in_a_browser(address_for_images: str, shown: Path, tmp_path: Path) -> None:
    """Upload pictures of no, draw one of yes, generate, see the answers, download the weights."""
    from playwright.sync_api import expect

    for index in (0, 1):
        Image.new("L", (30, 30), 40 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "note.txt").write_text("no picture")
    with visited(address_for_images) as page:
        generate = page.get_by_role("button", name="Generate")
        expect(generate).to_be_disabled(timeout=60_000)
        no = page.locator("input[type=file]").first
        no.set_input_files([tmp_path / "0.png", tmp_path / "1.png"])
        expect(page.get_by_text("2 images of no")).to_be_visible(timeout=30_000)
        draw_on(page, page.get_by_label("drawing pad").nth(1))
        page.get_by_role("button", name="Add the drawing to yes").click()
        expect(page.get_by_text("1 image of yes")).to_be_visible(timeout=30_000)
        expect(generate).to_be_enabled(timeout=30_000)
        generate.click()
        made = page.get_by_text(re.compile(r"A network from your images, made in [\d.]+ s"))
        expect(made).to_be_visible(timeout=60_000)
        expect(page.get_by_text(re.compile("^The network answers (yes|no)$"))).to_have_count(1)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download weights").click()
        weights = tmp_path / "w.safetensors"
        download.value.save_as(weights)
        # A file that is no picture is a message on the page.
        no.set_input_files([tmp_path / "note.txt"])
        expect(page.get_by_text(re.compile("note.txt: not a picture"))).to_be_visible(timeout=30_000)
    task = load_task(load_params(shown / "params.yaml").experiment("shown").task, None)
    task.network.load_state_dict(load(weights.read_bytes()))


@pytest.mark.integration
def test_in_a_browser(address: str, tasks: Path, tmp_path: Path) -> None:
    """Ask in words, read the accuracy, draw a digit, download the weights: what a visitor does."""
    from playwright.sync_api import expect

    with visited(address) as page:
        page.get_by_text("In words", exact=True).first.click()
        sentence = page.get_by_role("textbox", name="In words")
        sentence.fill("even numbers")
        sentence.press("Enter")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_text("A network that recognizes 0, 2, 4, 6, 8")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("1010101010")).to_be_visible()
        accuracy = re.search(r"test accuracy\s+([\d.]+) %", page.locator("body").inner_text())
        assert accuracy

        said = page.get_by_text(re.compile("^The network answers (yes|no)$"))
        expect(said).to_have_count(1)
        draw_on(page, page.get_by_label("drawing pad"))
        # A second answer: for what was drawn.
        expect(said).to_have_count(2)

        with page.expect_download() as download:
            page.get_by_role("button", name="Download weights").click()
        weights = tmp_path / "w.safetensors"
        download.value.save_as(weights)
        assert download.value.suggested_filename == "1010101010.safetensors"
    task = load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)
    found = task.score(load(weights.read_bytes()), "test", "1010101010")
    assert accuracy.group(1) == f"{found:.1f}"
