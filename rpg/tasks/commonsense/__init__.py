"""Commonsense questions, answered by a language model with an adapter."""
