"""One training of a service: planned, searched or refitted, judged, published."""
