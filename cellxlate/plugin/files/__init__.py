"""Files become layers, and layers files."""
