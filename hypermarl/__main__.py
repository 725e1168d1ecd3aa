"""`python -m hypermarl` is `hypermarl`."""

from __future__ import annotations

from hypermarl.cli import main

if __name__ == "__main__":
    main()
