"""How well mouth and voice agree: offset, confidence, distance, quality, and a report to look at."""
