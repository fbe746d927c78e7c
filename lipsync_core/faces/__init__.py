"""Faces: find them, follow one person through time, cut an upright crop and paste it back."""
