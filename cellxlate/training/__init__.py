"""From images of a source, and of a target where there is one, to a model bundle."""
