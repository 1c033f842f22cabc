"""`python -m tledge` is the command line too."""

from tledge.cli import main

main()
