"""Plans and releases as people write them: YAML in, frozen values out, and errors that name the key and its line."""

from collections.abc import Callable, Hashable
from typing import TypeVar

import yaml

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.release_mapping import ReleaseFile, release_from_mapping

Read = TypeVar("Read")

MAX_PLAN_CHARACTERS = 65_536  # a plan has a few dozen lines; beyond this it is another file
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a few lines of them can stand for more values than fit in memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave it untyped
            raise yaml.MarkedYAMLError(problem="aliases are not for plans", problem_mark=mark)
        return super().compose_node(parent, index)


def read_plan(text: str) -> RolloutPlan:
    """Parse and check; `InvalidPlan` carries the line of the key it is about, or of the nearest key above it."""
    return _read(text, plan_from_mapping)


def read_release(text: str) -> ReleaseFile:
    """The same of a release file."""
    return _read(text, release_from_mapping)


def _read(text: str, read: Callable[[object], Read]) -> Read:
    root = _compose(text)
    mapping = _value_of(root, "")
    try:
        return read(mapping)
    except InvalidPlan as error:
        raise InvalidPlan(error.field, error.rule, line=_line_of(root, error.field)) from None


def _compose(text: str) -> yaml.Node:
    if len(text) > MAX_PLAN_CHARACTERS:
        raise InvalidPlan("plan", f"must have at most {MAX_PLAN_CHARACTERS} characters, not {len(text)}")
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise InvalidPlan("plan", f"cannot be read: {error.problem or error.context}", line=line) from None
    except yaml.YAMLError as error:
        raise InvalidPlan("plan", f"cannot be read: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidPlan("plan", "nests too deeply") from None
    if root is None:
        raise InvalidPlan("plan", "is empty", line=1)
    return root


def _value_of(node: yaml.Node, path: str) -> object:
    """Plain mappings, lists and scalars; every other tag is refused, so that no YAML type sneaks in."""
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        return _mapping_of(node, path)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        return [_value_of(entry, f"{path}[{index}]") for index, entry in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar_of(node, path)
    raise InvalidPlan(path or "plan", f"has a tag that no plan uses: {node.tag}", line=_line(node))


def _mapping_of(node: yaml.MappingNode, path: str) -> dict[Hashable, object]:
    mapping: dict[Hashable, object] = {}
    first_line: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise InvalidPlan(path or "plan", "has a key that is not a plain name", line=_line(key_node))
        key = str(key_node.value)
        key_path = f"{path}.{key}" if path else key
        if key in mapping:
            raise InvalidPlan(key_path, f"is given twice, first on line {first_line[key]}", line=_line(key_node))
        first_line[key] = _line(key_node)
        mapping[key] = _value_of(value_node, key_path)
    return mapping


def _scalar_of(node: yaml.ScalarNode, path: str) -> object:
    text = str(node.value)
    try:
        match node.tag.removeprefix(TAG):
            case "str" | "timestamp":  # a plan has no dates: what looks like one is a name
                return text
            case "null":
                return None
            case "bool":
                return yaml.SafeLoader.bool_values[text.lower()]
            case "int":
                return yaml.SafeLoader("").construct_yaml_int(node)
            case "float":
                return yaml.SafeLoader("").construct_yaml_float(node)
    except (ValueError, KeyError, IndexError):
        raise InvalidPlan(path or "plan", f"cannot be read: {text[:40]!r}", line=_line(node)) from None
    raise InvalidPlan(path or "plan", f"has a tag that no plan uses: {node.tag}", line=_line(node))


def _line_of(node: yaml.Node, path: str) -> int:
    """The line of the deepest key on `path` that the file has; a missing key is its parent's line."""
    line = _line(node)
    while path:
        found = _step_into(node, path)
        if found is None:
            break
        line, node, path = found
    return line


def _step_into(node: yaml.Node, path: str) -> tuple[int, yaml.Node, str] | None:
    if isinstance(node, yaml.SequenceNode) and path.startswith("["):
        index, _, rest = path[1:].partition("]")
        if not index.isdecimal() or int(index) >= len(node.value):
            return None
        entry = node.value[int(index)]
        return _line(entry), entry, rest.removeprefix(".")
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in sorted(node.value, key=lambda pair: -len(pair[0].value)):
            key = str(key_node.value)
            if path.startswith(key) and path[len(key) : len(key) + 1] in ("", ".", "["):
                return _line(key_node), value_node, path[len(key) :].removeprefix(".")
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
