"""All commands except fit, validate, test and predict. `kd_lightning.cli.registry` lists them."""
