"""Packages of the BioImage Model Zoo: what they state, and the processing that they name."""
