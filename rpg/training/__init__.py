"""Training of RPG and of the hypernetwork."""
