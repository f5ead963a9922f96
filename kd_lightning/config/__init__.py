"""Reading and checking of configs: parser, messages, checks."""
