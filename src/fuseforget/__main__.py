"""``python -m fuseforget``."""

from fuseforget.cli import main

main()
