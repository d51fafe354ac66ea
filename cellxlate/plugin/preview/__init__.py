"""Attention over the visible plane, live."""
