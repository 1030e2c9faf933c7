"""YAML that people write: settings, contracts and experiments. Needs PyYAML, which the roles' extras bring.

YAML lets a key stand twice in a mapping and the last one wins, so that a reader who sees the first is deceived about what
is signed or set. Here that is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from fedshare.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["parse_yaml"]


class _DuplicateKeyError(yaml.MarkedYAMLError):
    pass


class _UniqueKeysLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - PyYAML's type
        # Before merge keys (<<) are resolved, for a mapping may say otherwise than what it merges.
        mapping = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _DuplicateKeyError(problem=key.value, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return mapping


def parse_yaml(text: str, path: Path) -> Any:  # noqa: ANN401 - whatever YAML can say
    """Return what ``text``, from the file at ``path``, says.

    Raises:
        ConfigError: it is not YAML, or a key stands twice in one mapping; the message names file, line and key.
    """
    try:
        loader = _UniqueKeysLoader(text)
        return loader.get_single_data()
    except _DuplicateKeyError as error:
        raise ConfigError(
            f"{path}{_line(error)}: the key {error.problem} is there twice; keep one of the two"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{path}{_line(error)}: expected YAML, found something else; check the indentation and the quotes"
        ) from error


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"
