"""What late-phase training costs on the machine at hand: how it is measured, what is measured, and the report."""
