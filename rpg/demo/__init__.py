"""`rpg demo`: a page that generates networks."""
