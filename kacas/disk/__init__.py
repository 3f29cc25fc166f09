"""The only folder that touches a store's files."""
