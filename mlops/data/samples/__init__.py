"""Real bars that ship with the project; SOURCES.md says where they come from."""
