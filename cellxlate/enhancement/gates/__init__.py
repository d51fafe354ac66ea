"""Where attention comes from when it is not the networks' own of each plane."""
