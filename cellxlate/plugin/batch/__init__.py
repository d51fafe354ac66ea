"""The `Enhance many files` panel."""
