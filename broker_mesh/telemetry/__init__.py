"""Telemetry: where spans go and what log lines carry; the layers only know a tracer and a `bind` function."""
