"""Benchmarks build, train and score source networks. They know nothing about tokens or RPG."""
