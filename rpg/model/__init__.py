"""The networks and equations of RPG. Nothing here knows of files or tasks."""
