"""What a recording tells: the same counts as a summary, a tree, a flame graph, annotated source, JSON."""
