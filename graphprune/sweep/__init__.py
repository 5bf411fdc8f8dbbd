"""Several budgets from one ranking, measured together."""
