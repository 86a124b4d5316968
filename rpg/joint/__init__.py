"""One RPG for the networks of several experiments, of one architecture each."""
