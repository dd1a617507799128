"""A run's config: its keys and their types, the choices of each group, and the part that is the run's identity."""
