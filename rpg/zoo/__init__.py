"""The zoo: base networks, source networks and their checkpoints."""
