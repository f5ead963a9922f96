"""Upload to the Hugging Face hub by its library, with the login of this library."""

from pathlib import Path

from kd_lightning.errors import ConfigError, RunError, one_line


def check_name(name: str) -> None:
    """Raise an error if a name does not have the form OWNER/NAME.

    Raises:
        ConfigError: for such a name; the message contains the reason.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: {error}") from error
    if name.count("/") != 1:
        raise ConfigError(f"push_to_hub: {name} is not OWNER/NAME")


def push(folder: Path, name: str, *, private: bool) -> str:
    """Upload an exported timm folder to a model repository, and return the address of the repository.

    If the repository does not exist, it is created. The login of the hub's library is used (`hf auth login`, or
    HF_TOKEN). If `private` is true, nothing is uploaded to a public repository.

    Raises:
        RunError: if the hub rejects the upload or cannot be reached. The local files remain.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="kd_lightning")
        address = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise RunError(
                f"push_to_hub: {name} exists and is public, so nothing was uploaded; --private false uploads to it"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A student, by kd_lightning export")
    except RunError:
        raise
    except Exception as error:  # no login or no connection: the library raises various errors
        raise RunError(
            f"push_to_hub: the upload to {name} failed ({one_line(error)}); the files remain in {folder.name}; check "
            "the login (`hf auth login`) and the network"
        ) from error
    return str(address)
