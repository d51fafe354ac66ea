"""Unpaired methods at convergence: the same networks, images and schedule for each. `run.py` says how to use it."""
