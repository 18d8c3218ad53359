"""Figures that are promised, measured beside a named peer in the same run."""
