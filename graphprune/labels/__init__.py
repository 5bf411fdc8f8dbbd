"""Labels of indices, their planes, the channels and groups that they form, and what is known about these."""
