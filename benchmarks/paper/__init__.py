"""The experiments of the SNIP-it paper: a grid of runs for each study, its tables and its figures."""
