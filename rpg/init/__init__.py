"""`rpg init`: look at a folder of checkpoints, and write an experiment for it."""
