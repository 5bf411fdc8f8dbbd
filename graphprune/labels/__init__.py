"""Labels of indices, their planes, the channels and groups that they make, and what is known of them."""
