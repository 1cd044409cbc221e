"""Thresholds from scores of normal recordings."""
