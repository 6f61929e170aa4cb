"""A student that leaves the sweep: model files with all that feeding them takes, and what runs them on a folder of images."""
