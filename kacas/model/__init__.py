"""Pure logic: bytes in, values out. No files, threads, clocks or environment."""
