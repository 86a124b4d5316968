"""Scores, baselines and distances in weight space."""
