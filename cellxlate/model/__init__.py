"""The translator: gate, networks, statistics, the bundle on disk, and the engines that run it."""
