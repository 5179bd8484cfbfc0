"""Where what a recipe names lies: beside the recipe, in the current folder, or on the Hub."""

from pathlib import Path

from hf_distill.recipe.yaml_lines import Key, Origin, name_of


def located(name: str, key: Key, origin: Origin, on_hub: bool = True) -> str:
    """A path that exists, tried from the recipe's folder and then from the current one; or else what must be a Hub id.

    Args:
        name: as written.
        key: where.
        origin: of the recipe.
        on_hub: whether it may be a Hub id.

    Raises:
        RecipeError: there is nothing there, and the name is written like a path or may be no Hub id.
    """
    for candidate in (origin.folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.exists():
            return str(candidate)
    if not on_hub or _looks_local(name):
        message = f"{name_of(key)}: nothing at '{name}' (looked in '{origin.folder}', then in the current folder)"
        raise origin.error([(key, message)])
    return name


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
