"""Write docs/loss.svg, accuracy.svg and novelty.svg, the plots of `dvc plots show` as images, with .venv active:

uvx --with vl-convert-python==1.9.0.post1 python docs/plots.py

If results/digits-wanted/wanted.csv exists, docs/wanted.svg is written from it, too. With the argument `wanted`, it is
the only one.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import vl_convert


def write(name: str, plot: str) -> None:
    # Without a spoken label for each of a thousand points.
    Path(f"docs/{name}.svg").write_text(vl_convert.vegalite_to_svg(plot, config={"aria": False}))


if "wanted" not in sys.argv[1:]:
    shown = subprocess.run(["dvc", "plots", "show", "--json"], capture_output=True, text=True, check=True)
    for name, plot in json.loads(shown.stdout)["data"].items():
        write(name, plot[0]["content"])
rows = Path("results/digits-wanted/wanted.csv")
if rows.is_file():
    text = Path("workflow/report/wanted.json").read_text()
    # `dvc plots show` fills the other templates.
    filled = {"TITLE": "Asked and got", "X": "aim_test", "Y": "test"}
    for key, value in filled.items():
        text = text.replace(f"<DVC_METRIC_{key}>", value)
    with rows.open() as file:
        numbers = [
            {key: float(value) if key in ("aim_test", "test") else value for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    write("wanted", text.replace('"<DVC_METRIC_DATA>"', json.dumps(numbers)))
