"""Commonsense questions to a language model with an adapter."""
