"""Looking after remotes: what is in a bucket, whether it is sound, and what nobody needs."""
