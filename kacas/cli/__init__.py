"""The `kacas` command, one module per command group."""
