"""Nodes that are to go and have no agent any more."""
