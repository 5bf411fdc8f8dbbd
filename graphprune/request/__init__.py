"""What a user asks for, checked once."""
