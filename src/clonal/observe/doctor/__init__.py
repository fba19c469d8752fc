"""What to change in a family of processes, with the evidence, the remedy and the predicted gain."""
