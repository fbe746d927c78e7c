"""The draft engine's ears: synthetic speech, training and evaluation of the mouth network."""
