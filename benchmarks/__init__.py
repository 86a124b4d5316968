"""Benchmarks of speed and memory: `python -m benchmarks --help`. The tests never run them."""
