"""The version of blurdiff."""

__version__ = "0.1.0"
