"""Training: recipes, the loop and its tasks (``python -m trainer``)."""
