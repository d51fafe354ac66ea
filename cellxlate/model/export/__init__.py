"""The translator for other software."""
