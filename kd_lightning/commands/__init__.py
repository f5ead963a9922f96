"""The commands besides fit, validate, test and predict; `kd_lightning.cli.registry` names them."""
