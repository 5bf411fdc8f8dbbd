"""What a pass is, what runs passes, what must hold between them, and a program as text."""
