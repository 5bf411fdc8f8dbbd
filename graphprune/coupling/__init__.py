"""Finds which channels go together: a program runs once on labels, and the unions between labels are solved."""
