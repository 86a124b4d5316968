"""New networks from a trained RPG."""
