"""`python -m blurcli`."""

from blurcli.cli import main

main()
