"""`make demo`: three acts on real bars, and the helpers that only the demonstration needs."""
