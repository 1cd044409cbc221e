"""Every combination of a grid of recipe keys, scored and compared."""
