"""Speed and memory, measured: `python -m benchmarks --help`. Never part of the tests."""
