"""`python -m clonal`: the command line."""

import sys

from clonal.cli.main import main

sys.exit(main())
