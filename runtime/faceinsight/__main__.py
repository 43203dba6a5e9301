"""`python -m faceinsight`: the command."""

import sys

from .console import main

sys.exit(main())
