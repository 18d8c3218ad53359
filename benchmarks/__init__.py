"""Measures the promised figures, each beside a named peer in the same run."""
