"""How the shipped encoder eat-tiny was made: distillation from YAMNet."""
