"""Capacity planning: what a fleet of clones will cost, before it is deployed."""
