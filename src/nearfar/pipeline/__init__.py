"""From recordings and a recipe to scores: what runs, grids and detectors share."""
