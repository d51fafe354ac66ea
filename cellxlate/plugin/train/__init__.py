"""The `Train translator` panel."""
