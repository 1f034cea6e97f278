"""`python -m experiments`: runs the items of the folders next to this file; see item_queue.py."""

import sys

from experiments.item_queue import main

sys.exit(main())
