"""The flows: each calls its steps in order."""
