"""Train a caching policy: `python train.py [ENV]`; `--help` lists the options."""

import sys

from ditcache_rl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
