"""Sealing: what only the members of an access group can open. Pure: keys and bytes, no files, no clocks."""
