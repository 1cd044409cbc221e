"""From recordings and a recipe to features: preparation, extraction and cache, shared by runs, grids and detectors."""
