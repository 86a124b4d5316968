"""Convert checkpoints to tokens and tokens to checkpoints."""
