"""One module per schema revision, named by its number and what it brings."""
