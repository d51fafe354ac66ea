"""What files from strangers may ask for, checked before a library believes them."""
