"""The same job on several processes or machines."""
