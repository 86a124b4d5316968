"""Write docs/loss.svg, accuracy.svg and novelty.svg, the plots of `dvc plots show` as images, with .venv active:

uvx --with vl-convert-python==1.9.0.post1 python docs/plots.py
"""

import json
import subprocess
from pathlib import Path

import vl_convert

shown = subprocess.run(["dvc", "plots", "show", "--json"], capture_output=True, text=True, check=True)
for name, plot in json.loads(shown.stdout)["data"].items():
    # Without a spoken label for each of a thousand points.
    Path(f"docs/{name}.svg").write_text(vl_convert.vegalite_to_svg(plot[0]["content"], config={"aria": False}))
