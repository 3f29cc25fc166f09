"""What keeps a store healthy: verify now; collect, merge and repair later."""
