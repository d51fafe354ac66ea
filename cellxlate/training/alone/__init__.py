"""Learning from noisy images alone: the windows that are taken, and what a step makes of them."""
