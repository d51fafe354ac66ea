"""The `Enhance cells` panel."""
