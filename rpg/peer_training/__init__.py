"""Train generators in RPG's place; their networks are in rpg.peers."""
