"""The cost of late-phase training on the user's machine: the workloads and the report."""
