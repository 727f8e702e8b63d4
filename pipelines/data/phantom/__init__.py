"""Brain phantoms made by the computer, for trying the program without data."""
