"""Drawn images with known truth: nuclei, and structures of many kinds."""
