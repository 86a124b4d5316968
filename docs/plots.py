"""Write the images of docs/, with .venv active:

uvx --with vl-convert-python==1.9.0.post1 python docs/plots.py

The plots of `dvc plots show` become docs/loss.svg, accuracy.svg and novelty.svg; results/digits-wanted/wanted.csv
becomes docs/wanted.svg, and the results of the ablation facts-prompts-tasks docs/questions.svg. With the name of an
image as argument, it is the only one.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import vl_convert

RESULTS = Path("results")
# Method of prompts.csv → its name in the plot.
METHODS = {
    "rpg": "RPG",
    "hypernetwork": "hypernetwork",
    "nearest_questions": "nearest task's adapter",
    "trained": "trained for the task",
    "together": "one adapter for all tasks",
}


def write(name: str, plot: str) -> None:
    # Without a spoken label for each of a thousand points.
    Path(f"docs/{name}.svg").write_text(vl_convert.vegalite_to_svg(plot, config={"aria": False}))


def fill(name: str, title: str, x: str, y: str, rows: list[dict]) -> None:
    """Write the plot of a template of workflow/report that `dvc plots show` does not fill."""
    text = Path(f"workflow/report/{name}.json").read_text()
    for key, value in {"TITLE": title, "X": x, "Y": y}.items():
        text = text.replace(f"<DVC_METRIC_{key}>", value)
    write(name, text.replace('"<DVC_METRIC_DATA>"', json.dumps(rows)))


def read(file: Path, *numbers: str) -> list[dict]:
    with file.open() as opened:
        return [
            {key: float(value) if key in numbers else value for key, value in row.items()}
            for row in csv.DictReader(opened)
        ]


def of_questions(folder: Path) -> list[dict]:
    """Return mean accuracies over the number of questions, and over the number of tasks in ablation.json."""
    trials = [RESULTS / "facts-prompts", *folder.glob("tasks-48-*")]
    rows = [row for trial in trials if (trial / "prompts.csv").is_file() for row in read(trial / "prompts.csv", "test")]
    points = []
    for method, name in METHODS.items():
        own = [row for row in rows if row["method"] == method]
        for count in ("1", "4", "16", "64"):
            scores = [row["test"] for row in own if row["questions"] in (count, "0")]
            points.append(
                {"plot": "questions", "count": int(count), "score": sum(scores) / len(scores), "method": name}
            )
    for variant in json.loads((folder / "ablation.json").read_text())["variants"]:
        of = variant["sets"]["held_out"]["test"]
        count = int(variant["variant"].removeprefix("tasks-"))
        points += [
            {"plot": "tasks", "count": count, "score": of[kind]["mean"], "method": METHODS[method]}
            for kind, method in (("rpg", "rpg"), ("original", "trained"))
        ]
    return points


def chosen(only: str) -> bool:
    return not sys.argv[1:] or only in sys.argv[1:]


if chosen("loss"):
    shown = subprocess.run(["dvc", "plots", "show", "--json"], capture_output=True, text=True, check=True)
    for name, plot in json.loads(shown.stdout)["data"].items():
        write(name, plot[0]["content"])
file = RESULTS / "digits-wanted/wanted.csv"
if chosen("wanted") and file.is_file():
    fill("wanted", "Asked and got", "aim_test", "test", read(file, "aim_test", "test"))
folder = RESULTS / "facts-prompts-tasks"
if chosen("questions") and folder.is_dir():
    fill("questions", "Adapters for tasks that no adapter was trained for", "count", "score", of_questions(folder))
