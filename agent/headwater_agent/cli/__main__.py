"""`python -m headwater_agent.cli`."""

import sys

from headwater_agent.cli import main

sys.exit(main())
