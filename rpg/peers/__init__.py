"""Other generators in RPG's place, written from their papers: their networks, which sample."""
