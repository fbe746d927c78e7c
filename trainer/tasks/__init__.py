"""What can be trained, one file or folder a task."""
