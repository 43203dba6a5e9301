"""`python -m faceinsight.cli`: the command."""

import sys

from .entry import main

sys.exit(main())
