"""Making a program smaller: parameters, module attributes, and literal sizes in the graph."""
