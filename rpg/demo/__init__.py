"""`rpg demo`: a web page that generates networks."""
