"""`python -m ditcache_rl.cli` is the console script."""

import sys

from ditcache_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
