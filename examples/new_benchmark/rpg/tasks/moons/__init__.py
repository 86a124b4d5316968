"""Two moons: points in the plane, of two classes, for a small MLP."""
