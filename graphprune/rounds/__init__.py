"""How rounds meet a budget."""
