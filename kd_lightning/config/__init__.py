"""Reading and checking of configs: parser, checks and error messages."""
