"""The Hugging Face hub, by its own library and login."""

from pathlib import Path

from kd_lightning.errors import ConfigError, RunError, one_line


def check_name(name: str) -> None:
    """Refuses what is no OWNER/NAME.

    Raises:
        ConfigError: saying what is.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: {error}") from error
    if name.count("/") != 1:
        raise ConfigError(f"push_to_hub: {name} is no OWNER/NAME")


def push(folder: Path, name: str, *, private: bool) -> str:
    """Uploads an exported timm folder to a model repository, made where there is none; its address.

    Whoever is logged in (`hf auth login`, or HF_TOKEN) does it. A private push writes to no public repository.

    Raises:
        RunError: where the hub refuses or cannot be reached; the files here stay.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="kd_lightning")
        address = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise RunError(
                f"push_to_hub: {name} is there and public; --private false publishes into it. Nothing was uploaded"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A student, by kd_lightning export")
    except RunError:
        raise
    except Exception as error:  # no login, no connection: the library's client has errors of its own
        raise RunError(
            f"push_to_hub: {name}: {one_line(error)}; the files are in {folder.name} all the same"
        ) from error
    return str(address)
