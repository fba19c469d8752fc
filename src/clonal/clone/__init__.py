"""Templates, clones, and the wire between them."""
