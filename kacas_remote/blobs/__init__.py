"""Blob stores: the few things that a remote needs of a bucket, whoever runs it."""
