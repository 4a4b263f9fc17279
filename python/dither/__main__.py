"""`python -m dither`: the same as the `dither` command."""

import sys

from dither.cli.main import main

sys.exit(main())
