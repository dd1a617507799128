"""What knows Hydra: how scripts run on it, and how its errors are said. Plug-ins are found here."""
