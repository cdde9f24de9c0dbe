"""Generated world: scenes, and data sets about them in official layouts."""
