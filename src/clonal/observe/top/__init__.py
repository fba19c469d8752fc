"""`clonal top`: the members of a family as they grow, fault and copy, read once a second at little cost."""
