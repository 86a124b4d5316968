"""Serve a local web page that generates networks: `rpg demo --experiment digits-tasks`."""

import contextlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rpg.data import load_data
from rpg.generator.packed import read_packed
from rpg.generator.trained import TrainedRPG
from rpg.utils.errors import UserError


def demo(experiment: str | None, folder: Path | None, port: int, browser: bool) -> None:
    """Serve the page on `port` of this machine until an interrupt; open a browser if `browser` is set.

    Raises UserError if Streamlit is not installed or cannot serve, if the experiment has no task codes or is not
    trained, or if the experiment's data set is missing.
    """
    if not find_spec("streamlit"):
        raise UserError("rpg demo needs streamlit; install rpg-weights[demo,pipeline,vision]")
    trained = load(experiment, folder)
    if not trained.task.in_words:
        raise UserError(
            f"{trained.name}: the networks have no tasks to choose from, or none on classes;"
            " name an experiment with task_codes"
        )
    # Load the data set here, so that its absence is an error of the command and not of the page.
    load_data(trained.task.dataset, trained.data_root)
    options = {
        "server.port": port,
        "server.address": "localhost",
        "server.headless": str(not browser).lower(),
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    page = Path(__file__).with_name("page.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page), *flags, "--", experiment or "", str(folder or "")]
    with contextlib.suppress(KeyboardInterrupt):
        if subprocess.run(command, check=False).returncode > 0:
            raise UserError(
                f"Streamlit could not serve the page, see above; if port {port} is taken, add --port with another"
            )


def load(experiment: str | None, folder: Path | None) -> TrainedRPG:
    """Load the generator of an experiment, or the packed one in a folder."""
    return TrainedRPG.of_experiment(experiment) if experiment else read_packed(folder or Path())
