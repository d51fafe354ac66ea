"""From a stack and a translator to an enhanced stack: tiles, planes, jobs."""
