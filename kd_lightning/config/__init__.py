"""Reading and checking a config: parser, messages, checks, safe YAML."""
