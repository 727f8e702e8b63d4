"""Damaged images and models, wrong command lines and configs: thousands, in a process that may die.

    python -m tests.fuzz --cases 10000 [--of images|models|lines]

Prints a table: how many of each kind were refused, were accepted, or ended otherwise, and names
the latter. The exit code is 1 if there are any.
"""

import sys

from tests.fuzz.run import main

if __name__ == "__main__":
    sys.exit(main())
