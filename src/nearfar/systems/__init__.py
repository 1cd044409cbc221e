"""Whole systems: from a data folder and a recipe to scores, tables and figures in a run folder."""
