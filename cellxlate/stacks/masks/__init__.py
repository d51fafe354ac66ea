"""Masks that people made: found by name, and opened, whatever made them."""
