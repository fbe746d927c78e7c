"""People who were never filmed: rendered talking heads with perfect truth, from a number."""
