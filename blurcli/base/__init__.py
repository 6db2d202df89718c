"""Shared foundations: files, downloads, the console, processes. Imports nothing of the package outside base."""
