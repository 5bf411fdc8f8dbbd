"""For comparing methods: networks, data, training, methods to prune by, and what is measured of their results."""
