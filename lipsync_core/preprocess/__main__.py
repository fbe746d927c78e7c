"""`python -m lipsync_core.preprocess`."""

from .cli import main

if __name__ == "__main__":
    main()
