"""Verbs per kind of data, on a repository."""
