"""What a comparison of pruning methods needs: networks, data, training, the methods, and measures of their results."""
