"""What live weights join to input and output, and what they do not."""
