"""One file for each noun; `mlops.api.app` includes them all."""
