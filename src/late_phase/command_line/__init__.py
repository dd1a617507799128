"""The part that knows Hydra: it runs scripts, plans and starts the runs of tables, explains errors, and finds plug-ins."""
