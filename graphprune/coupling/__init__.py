"""Which channels hang together: a program runs once on labels, and their unions are solved."""
