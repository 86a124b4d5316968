"""Benchmarks: how source networks are built, trained and scored. They know nothing of tokens or RPG."""
