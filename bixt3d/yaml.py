"""YAML as configs use it: plain values alone, numbers such as 1e-3, each key once."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any


def parse_yaml(text: str) -> Any:
    """Return what a YAML document says, in plain values.

    Raises:
        ValueError: If it is not valid, states a key twice, or uses aliases, tags of Python or ``${...}``.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        value = yaml.load(text, Loader=_loader())  # a SafeLoader: it makes plain values alone
    except Exception as error:  # PyYAML raises several kinds for a value that its tag does not fit
        raise ValueError(" ".join(str(error).split())) from None  # on one line
    _check_plain(value, "")
    return value


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return nested dictionaries of settings such as ``"optim.lr=1e-3"``; the last of a key counts.

    Raises:
        ValueError: For one that is no key and value, or whose value is not valid YAML.
    """
    given: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"override {text!r}: expected key=value, such as optim.lr=1e-3")
        try:
            parsed = parse_yaml(value) if value.strip() else ""
        except ValueError as error:
            raise ValueError(f"overrides {text}: {key}: {error}") from None
        *sections, name = key.split(".")
        inside = given
        for section in sections:
            if not isinstance(inside.get(section), dict):
                inside[section] = {}
            inside = inside[section]
        inside[name] = parsed
    return given


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return dictionaries, lists and plain values as YAML, in their order."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:  # `parse_yaml` takes none
            return True

    _know_numbers(Dumper)  # text that would be read as a number is quoted
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them may stand for more than memory holds
                name = self.peek_event().anchor
                raise yaml.YAMLError(f"*{name}: aliases are not taken, write the values out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key, _ in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name is None or name in seen:
                    wrong = "a key that is no name" if name is None else f"duplicate key {name}"
                    raise yaml.constructor.ConstructorError(None, None, f"found {wrong}", key.start_mark)
                seen.add(name)
            mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return mapping

    _know_numbers(Loader)
    Loader.yaml_implicit_resolvers = {  # a date is text
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in Loader.yaml_implicit_resolvers.items()
    }
    return Loader


def _know_numbers(kind: Any) -> None:
    """Let a class of PyYAML's, which knows the numbers of YAML 1.1, know 1e-3 as YAML 1.2 does."""
    number = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))


def _check_plain(value: Any, key: str) -> None:
    """Raise ValueError for ``${...}``, by which other tools mean the environment or another setting."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{key}: expected a value, got {value!r}, which stands for another")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_plain(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, key)
