"""Checkpoints as tokens, and back."""
