"""Files to arrays and back: lazy stacks, streamed writers, intensity levels, simulated samples."""
