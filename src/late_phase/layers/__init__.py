"""Layers, and reparametrizations of plain models, that have late-phase weights of their own."""
