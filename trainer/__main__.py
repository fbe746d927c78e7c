"""`python -m trainer`; installed, `python -m lipsync_trainer`."""

from .cli import main

if __name__ == "__main__":
    main()
