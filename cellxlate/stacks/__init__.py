"""Files to arrays and back: lazy stacks, streamed writers, what networks see of counts, simulated samples."""
