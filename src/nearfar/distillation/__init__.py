"""Everything that only rebuilds the shipped encoder eat-tiny: distillation from YAMNet."""
