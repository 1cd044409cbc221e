"""Whole challenge systems: runs, tables and submissions."""
