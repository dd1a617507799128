"""The single model of a finished run, for use elsewhere."""
