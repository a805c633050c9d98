"""What every room of the house needs: the one-line error and safe writing. No images, no networks."""
