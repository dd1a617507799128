"""Layers for the architectures, and reparametrizations that give a plain model new late-phase weights."""
