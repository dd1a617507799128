"""A run's config: its keys and their types, what can be chosen in each group, and what of it is the run's identity."""
