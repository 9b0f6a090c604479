"""`python -m microgpt` is `microgpt`."""

from microgpt.cli import main

main()
