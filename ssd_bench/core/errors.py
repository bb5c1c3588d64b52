"""What can go wrong through no fault of the program, and the nearest match for a name that does not exist."""

from __future__ import annotations

import difflib
import errno
import math
from collections.abc import Iterable
from importlib.util import find_spec
from numbers import Real

LISTED = 40  # names that a message lists
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class ConfigError(ValueError):
    """The user's input is wrong; the message is one line that says what, what is allowed and the nearest match."""


class CannotWrite(ConfigError):
    """There is no room, no permission or no folder for a file."""

    @classmethod
    def at(cls, path: object, why: Exception) -> CannotWrite:
        """The line about `path`, from what the system said."""
        said = getattr(why, "strerror", None) or " ".join(str(why).split())
        return cls(
            f"{path} cannot be written ({said}); make room, or choose another folder with out=..., and start the same "
            "command again: what is finished is kept"
        )


class Diverged(Exception):
    """A loss or a weight is no longer a finite number; the message says where."""


def check_choice(what: str, value: object, allowed: Iterable[object], where: str = "") -> None:
    """Raise ConfigError unless `value` is one of `allowed`, naming the nearest match and the choices.

    what: the key that `value` is given to; empty where `value` is a key itself. where: what the line begins with.
    """
    names = sorted({str(name) for name in allowed})
    if str(value) in names:
        return
    near = difflib.get_close_matches(str(value).lower(), {name.lower(): name for name in names}, n=1)
    near = [name for name in names if near and name.lower() == near[0]]
    hint = f"did you mean '{near[0]}'? " if near else ""
    listed = ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)
    given = f"{what}={value}" if what else str(value)
    raise ConfigError(f"{where}{given} does not exist; {hint}allowed: {listed}")


def check_range(
    what: str,
    value: float | None,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    null: bool = False,
) -> None:
    """Raise ValueError unless `value` is a finite number from `least` to `most`, more than `above`, less than `below`.

    what: the name of the setting, with which the line begins. null: None is a value, too.
    """
    if null and value is None:
        return
    if isinstance(value, Real) and least <= value <= most and above < value < below:
        return
    if math.isfinite(least) and math.isfinite(most):
        said = f"between {least} and {most}"
    elif above == 0:
        said = "positive"
    else:
        bounds = {"at least": least, "at most": most, "more than": above, "below": below}
        said = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound))
    raise ValueError(f"{what} must be {'null or ' if null else ''}{said}, got {value}")


def check_installed(module: str, extra: str, what: str) -> None:
    """Raise ConfigError unless `module` is there, which `what` needs and the package's extra `extra` brings."""
    if find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}, which is not installed: pip install 'ssd-bench[{extra}]'")
