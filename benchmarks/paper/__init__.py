"""The experiments of the SNIP-it paper: for each study a grid of runs, tables and figures."""
