"""The only readers and writers of svkit's files."""
