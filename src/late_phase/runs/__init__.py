"""A run: its directory, the files with its config and numbers, their provenance, and the models of finished runs."""
