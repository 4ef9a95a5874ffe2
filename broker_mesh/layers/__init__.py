"""Layers: one policy a file, each a pure decision and a thin wrapper; outbound.py and inbound.py hold their order."""
