"""Counts of a camera to unit range and back; its noise, its faults, and what it never recorded."""
