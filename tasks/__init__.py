"""The steps of the flows: each task is one library call; settings are read here."""
