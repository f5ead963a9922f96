"""The commands other than fit, validate, test and predict; they are registered in `kd_lightning.cli.registry`."""
