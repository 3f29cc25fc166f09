"""Remotes of kacas: buckets and web servers that `sha1://` URIs resolve from."""
