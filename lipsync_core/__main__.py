"""`python -m lipsync_core` is the `lipsync` command."""

from .cli import main

if __name__ == "__main__":
    main()
