"""What is learned from: fields of images, patches drawn from them, where their cells are."""
