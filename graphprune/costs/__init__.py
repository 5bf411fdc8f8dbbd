"""What a program costs: what can be counted, how it follows from what is kept, and which weights count."""
