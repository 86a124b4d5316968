"""The networks and equations of RPG. This package imports no code for files or tasks."""
