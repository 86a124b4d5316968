"""The thread count of numerical libraries."""

import os
import subprocess
import sys

import pytest

from rpg.utils.threads import VARIABLES, limit_threads, thread_variables


def test_every_library_gets_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")
    assert thread_variables(3) == {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    limit_threads(3)
    assert {os.environ[name] for name in VARIABLES} == {"3"}


def test_libraries_that_are_imported_afterwards_obey() -> None:
    # One, because torch takes no more threads than there are cores.
    limited = "from rpg.utils.threads import limit_threads; limit_threads(1)"
    program = f"{limited}; import torch; print(torch.get_num_threads())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
