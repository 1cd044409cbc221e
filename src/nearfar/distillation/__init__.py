"""Distillation of the shipped encoder eat-tiny from YAMNet; used only to rebuild it."""
