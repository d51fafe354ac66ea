"""From two folders of unpaired images to a model bundle."""
