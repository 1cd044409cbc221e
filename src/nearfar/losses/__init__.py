"""Angular-margin classification losses."""
