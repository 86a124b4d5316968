"""The number of CPU threads of numerical libraries."""

import os

# OpenMP, OpenBLAS and MKL read these variables once, at their import.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables with which libraries use `threads` threads."""
    return dict.fromkeys(VARIABLES, str(threads))


def limit_threads(threads: int) -> None:
    """Let the libraries that this process will import use `threads` threads."""
    os.environ.update(thread_variables(threads))
