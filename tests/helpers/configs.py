"""A config of KD on the digits as a dictionary, and a function that changes it."""

from typing import Any

import yaml

KD: dict[str, Any] = {
    "data": {"class_path": "Digits", "init_args": {}},
    "model": {
        "class_path": "KD",
        "init_args": {
            "teacher": {"name": "cifar_resnet20.digits", "pretrained": True},
            "student": {"name": "cifar_resnet8"},
        },
    },
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}


def changed(**fields: object) -> dict:
    """Return the KD config with other values, by key with `__` between the levels (`model__init_args__teacher`)."""
    config = yaml.safe_load(yaml.safe_dump(KD))
    for key, value in fields.items():
        *groups, last = key.split("__")
        group = config
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    return config
