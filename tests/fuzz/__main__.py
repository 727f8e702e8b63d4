"""Reads damaged files of every format, thousands of them, in a process that may die.

    python -m tests.fuzz --cases 10000

Prints a table: how many files of each format were refused, were read, or ended otherwise, and names
the latter. The exit code is 1 if there are any.
"""

import sys

from tests.fuzz.run import main

sys.exit(main())
