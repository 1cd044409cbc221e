"""Pooling of tokens or frames over time."""
