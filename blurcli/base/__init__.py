"""What everything else stands on: files, downloads, the console, processes. Imports nothing of ours outside base."""
