"""`python -m blurcli`."""

from blurcli.cli import run

run()
