"""Results on disk, and what is read back from them."""
