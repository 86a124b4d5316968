"""A local web page to play with: `rpg demo --experiment digits-tasks`."""

import contextlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rpg.data import load_data
from rpg.generator.generate import Generator
from rpg.utils.errors import UserError


def demo(experiment: str, port: int, browser: bool) -> None:
    """Serve the page on `port` of this machine until it is interrupted, and open a browser if `browser`.

    Raises UserError if Streamlit is not installed or cannot serve, if the experiment has no task codes or is not
    trained, or if its data set is missing.
    """
    if not find_spec("streamlit"):
        raise UserError("rpg demo needs streamlit, which requirements/dev.txt and the extra 'demo' install")
    generator = Generator(experiment)
    if not generator.experiment.task.has_codes:
        raise UserError(f"{experiment}: its networks have no tasks to choose from; rpg demo is for task_codes")
    # Now, so that a missing data set is said here and not in the page.
    load_data(generator.experiment.task.dataset, generator.params.data_root)
    options = {
        "server.port": port,
        "server.address": "localhost",
        "server.headless": str(not browser).lower(),
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    page = Path(__file__).with_name("page.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page), *flags, "--", experiment]
    with contextlib.suppress(KeyboardInterrupt):
        if subprocess.run(command, check=False).returncode > 0:
            raise UserError(f"the page could not be served, as said above; is port {port} taken? --port takes another")
