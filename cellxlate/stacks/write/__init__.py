"""Finished bands become a file that appears when it is complete."""
