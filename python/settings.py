"""Explains Jupyter settings that are wrong, unknown or without effect."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import re
import traceback
from collections.abc import Callable
from typing import Any

from traitlets import TraitError, TraitType
from traitlets.config import Configurable

# Classes that are imported at the first request that needs them, and then get the settings of the server.
LATE_PACKAGES = ("nbconvert",)
# `notebook_shim` hands settings of a class that no longer exists to these.
SUCCESSORS = {"NotebookApp": ("ServerApp", "LabApp")}
# Old names of settings that the control API sets.
OLD_NAMES = {("ServerApp", "token"): ("IdentityProvider", "token")}


class SettingError(BaseException):
    """A setting has a wrong value. It is no `Exception`: Jupyter catches those and starts without an extension."""

    def __init__(self, details: dict) -> None:
        super().__init__(f"{details['key']} {details['reason']}")
        self.details = details


def explain(error: BaseException, requested: list[str], loaded: list[Any]) -> dict | None:
    """Says which setting an error comes from: its key, the rule, and the configuration file that has it.

    The file is None for a setting that the start has requested. Returns None for an error of anything else.
    """
    # traitlets ends the program while it handles the error.
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(cause, TraitError):
        return None
    found = find_trait(cause)
    if found is None:
        return None
    owner, trait, is_crossed = found
    if is_crossed or "expected" not in str(cause):
        # Without the object's address, which means nothing to a user.
        rule = re.match(r"The '\w+' trait of .+? instance (must .+)", str(cause), re.DOTALL)
        reason = rule[1] if rule else f"is refused: {cause}"
    else:
        reason = f"must be {describe_rule(trait)}"
    return find_origin(type(owner), trait.name, reason, requested, loaded)


def find_origin(cls: type, trait: str, reason: str, requested: list[str], loaded: list[Any]) -> dict | None:
    """Describes a wrong setting of a class by what has set it: the start, or the last file that does."""
    sections = [base.__name__ for base in cls.__mro__]
    for section in sections:
        if f"{section}.{trait}" in requested:
            return {"key": f"{section}.{trait}", "reason": reason, "file": None}
    for file in reversed(loaded):
        for section in sections:
            if section in file.settings and trait in file.settings[section]:
                return {"key": f"{section}.{trait}", "reason": reason, "file": file.path}
    return None


def find_trait(error: TraitError) -> tuple[Any, TraitType, bool] | None:
    """Returns the object and the trait that an assignment failed for, and whether a validator of its class refused it."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        trait = frame.f_locals.get("self")
        method = frame.f_code.co_name
        # Items of a list have a trait of their own, without a name.
        if method in ("_validate", "_cross_validate") and isinstance(trait, TraitType) and trait.name:
            found = (frame.f_locals.get("obj"), trait, method == "_cross_validate")
    return found


def describe_rule(trait: TraitType) -> str:
    inner = getattr(trait, "_trait", None)
    return trait.info() + (f", each item {inner.info()}" if isinstance(inner, TraitType) else "")


def escalate(method: Callable[..., Any], requested: list[str], loaded: list[Any]) -> Callable[..., Any]:
    """Makes a wrong setting end the start where Jupyter would log it and leave the extension out."""

    def call(*args: Any) -> Any:
        try:
            return method(*args)
        except TraitError as error:
            details = explain(error, requested, loaded)
            if details:
                raise SettingError(details) from error
            raise

    return call


def parse_items(text: str) -> list | tuple | set | None:
    """Returns the list, tuple or set that a text is in Python, else None.

    traitlets' own parser gives up where the items have a type, and a list would take the text as its only item.
    """
    with contextlib.suppress(Exception):
        items = ast.literal_eval(text)
        return items if isinstance(items, (list, tuple, set)) else None
    return None


def find_unknown(keys: list[str]) -> dict[str, list[str]]:
    """Returns the settings that no class has, each with names that are similar."""
    if not keys:
        return {}
    known = list_known()
    if any(not is_known(key, known) for key in keys):
        for package in LATE_PACKAGES:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
        known = list_known()
    return {key: find_similar(key, known) for key in keys if not is_known(key, known)}


def list_known() -> dict[str, set[str]]:
    """Returns the names of all imported classes with those of the settings that have an effect under them."""
    known: dict[str, set[str]] = {}

    def visit(cls: type[Configurable]) -> set[str]:
        # A class's settings are also those of its subclasses, which read its section of the configuration.
        names = set(cls.class_trait_names(config=True)).union(*(visit(child) for child in cls.__subclasses__()))
        known[cls.__name__] = known.get(cls.__name__, set()) | names
        return names

    visit(Configurable)
    for name, successors in SUCCESSORS.items():
        known.setdefault(name, set()).update(*(known.get(successor, ()) for successor in successors))
    return known


def is_known(key: str, known: dict[str, set[str]]) -> bool:
    class_name, _, trait = key.partition(".")
    return trait in known.get(class_name, ())


def find_similar(key: str, known: dict[str, set[str]]) -> list[str]:
    class_name, _, trait = key.partition(".")
    if class_name in known:
        return [f"{class_name}.{name}" for name in difflib.get_close_matches(trait, known[class_name])]
    owners = [name for name in known if trait in known[name]]
    return [f"{name}.{trait}" for name in difflib.get_close_matches(class_name, owners)]


def find_overridden(settings: list[list], requested: list[str], loaded: list[Any]) -> dict[str, str]:
    """Returns the settings of configuration files that the control API sets itself to other values, each with its file."""
    owned = {(name, trait): value for name, trait, value in settings if f"{name}.{trait}" not in requested}
    owned.update({old: owned.get(new) for old, new in OLD_NAMES.items()})
    return {
        f"{name}.{trait}": file.path
        for file in loaded
        for (name, trait), value in owned.items()
        if name in file.settings and trait in file.settings[name] and differ(file.settings[name][trait], value)
    }


def differ(given: Any, value: Any) -> bool:
    """Whether two values differ. A path is the same with a slash at its end."""
    both = isinstance(given, str) and isinstance(value, str)
    return given.rstrip("/") != value.rstrip("/") if both else given != value
