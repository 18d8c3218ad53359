"""Step: each task is a decorator, a docstring and one library call; settings enter here."""
