"""Counterparts that tests talk to: real protocols on free loopback ports."""
