"""One training: planned, run, judged, published, and asked for again."""
