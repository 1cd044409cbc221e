"""Localisation of anomalies in time and frequency, and their explanation in words."""
