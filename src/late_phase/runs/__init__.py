"""A run: its directory, its config and its numbers in files, where they come from, and the models of finished runs."""
