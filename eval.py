"""Evaluate a caching policy: `python eval.py [POLICY]`; `--help` lists the options."""

import sys

from ditcache_rl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval", *sys.argv[1:]]))
