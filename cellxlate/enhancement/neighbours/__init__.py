"""What is seen beside a plane: the planes before and after it, and other channels."""
