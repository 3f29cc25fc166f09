"""What other systems keep: read where they keep it, and taken over."""
