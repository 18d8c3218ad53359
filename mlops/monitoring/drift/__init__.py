"""Drift of a version's columns from the bars that it was trained on."""
