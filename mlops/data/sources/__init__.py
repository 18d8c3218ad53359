"""Where bars come from: one file per kind of source behind one protocol."""
