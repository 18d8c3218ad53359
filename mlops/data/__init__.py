"""Market data: bars that are complete, checked and traceable, and the splits that judge on them."""
